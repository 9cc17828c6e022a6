"""The commands put together, and what becomes of errors."""

import sys
import traceback
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import typer
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError

from jobs.cli import (
    admin,
    campaigns,
    datasets,
    files,
    jobs,
    kinds,
    models,
    pictures,
    processes,
    retention,
    schedules,
    stack,
    train,
)
from jobs.export import CorruptArtifactError
from jobs.problems import BadInputError, ConflictError, NotFoundError
from jobs.settings import NotConfiguredError, variable
from jobs.stackfile import AlreadyRunningError
from jobs.standalone import PortInUseError, RootError, ServerStartError
from storage.database import MigrationBusyError
from storage.ledger.cancel import WrongStateError
from storage.models import DuplicateModelError
from storage.objects import ObjectMissingError, ObjectStoreError
from storage.tenants import UnknownTenantError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Marketing content in bulk: campaigns in, artifacts in S3 out, every job in SQL.",
)
for part in (
    stack,
    campaigns,
    jobs,
    kinds,
    pictures,
    datasets,
    train,
    schedules,
    files,
    processes,
    admin,
    models,
    retention,
):
    part.add_to(app)

USAGE = 2
"""Exit code for what the caller must mend; 1 is for what went wrong otherwise."""

DOCTOR = "`presswork doctor` looks at each service"


def main() -> None:
    """Run the command; errors that users can do something about come without a traceback."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 (the last one: nothing is swallowed)
        message, code = _explained(error)
        print(message, file=sys.stderr)  # noqa: T201
        sys.exit(code)


def _explained(error: Exception) -> tuple[str, int]:
    """What is said about ``error``, and the exit code."""
    for kind in type(error).__mro__:
        if kind in _EXPLANATIONS:
            explain, code = _EXPLANATIONS[kind]
            return explain(error), code
    return traceback.format_exc(), 1


def _settings(error: ValidationError) -> str:
    problems = [
        f"{variable(str(item['loc'][0]))}: {item['msg'].removeprefix('Value error, ')}"
        for item in error.errors()
    ]
    return "\n".join(["a setting cannot be used:", *problems])


def _file(error: OSError) -> str:
    # Without a name it is no file of the caller's but a bug of ours.
    if error.filename is None:
        return traceback.format_exc()
    return f"{error.filename}: {error.strerror}"


_EXPLANATIONS: Mapping[type, tuple[Callable[[Any], str], int]] = MappingProxyType(
    {
        BadInputError: (str, USAGE),
        NotConfiguredError: (str, USAGE),
        NotFoundError: (str, USAGE),
        ConflictError: (str, USAGE),
        UnknownTenantError: (
            lambda name: f"there is no tenant {str(name)!r}, which PRESSWORK_TENANT names",
            USAGE,
        ),
        WrongStateError: (lambda error: f"not possible: it is {error.status}", USAGE),
        DuplicateModelError: (lambda name: f"a model {name} is registered already", USAGE),
        ValidationError: (_settings, USAGE),
        AlreadyRunningError: (str, 1),
        PortInUseError: (str, 1),
        RootError: (str, 1),
        ServerStartError: (str, 1),
        CorruptArtifactError: (str, 1),
        MigrationBusyError: (
            lambda step: (
                f"step {step} could not get its locks in time, since others are at work; nothing "
                "of it was changed: run `presswork migrate` again"
            ),
            1,
        ),
        DBAPIError: (
            lambda error: (
                f"the database does not answer or is not migrated: {error.orig}\n{DOCTOR}"
            ),
            1,
        ),
        ObjectMissingError: (lambda key: f"the bucket has no object {key} any more", 1),
        ObjectStoreError: (
            lambda error: f"the object store does not answer: {error}\n{DOCTOR}",
            1,
        ),
        OSError: (_file, 1),
    }
)
"""By the nearest class: how the error is explained, and the exit code."""
