"""The commands put together, and what becomes of errors."""

import sys
import traceback

import typer
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError

from jobs.cli import admin, campaigns, jobs, processes, stack
from jobs.export import CorruptArtifactError
from jobs.problems import BadInputError, ConflictError, NotFoundError
from jobs.settings import NotConfiguredError
from jobs.stackfile import AlreadyRunningError
from jobs.standalone import PortInUseError, RootError, ServerStartError
from storage.ledger.cancel import WrongStateError
from storage.models import DuplicateModelError
from storage.objects import ObjectStoreError
from storage.tenants import UnknownTenantError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Marketing content in bulk: campaigns in, artifacts in S3 out, every job in SQL.",
)
for part in (stack, campaigns, jobs, processes, admin):
    part.add_to(app)

USAGE = 2
"""Exit code for what the caller must mend; 1 is for what went wrong otherwise."""


def main() -> None:
    """Run the command; errors that users can do something about come without a traceback."""
    try:
        app()
    except (
        BadInputError,
        NotConfiguredError,
        NotFoundError,
        ConflictError,
        UnknownTenantError,
    ) as error:
        _fail(str(error), USAGE)
    except WrongStateError as error:
        _fail(f"not possible: it is {error.status}", USAGE)
    except DuplicateModelError as error:
        _fail(f"a model {error} is registered already", USAGE)
    except ValidationError as error:
        lines = [f"{item['loc'][0]}: {item['msg']}" for item in error.errors()]
        _fail("a setting cannot be used:\n" + "\n".join(lines), USAGE)
    except (
        AlreadyRunningError,
        PortInUseError,
        RootError,
        ServerStartError,
        CorruptArtifactError,
    ) as error:
        _fail(str(error), 1)
    except DBAPIError as error:
        _fail(f"the database does not answer or is not migrated: {error.orig}\n{DOCTOR}", 1)
    except ObjectStoreError as error:
        _fail(f"the object store does not answer: {error}\n{DOCTOR}", 1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:  # noqa: BLE001 (the last one: nothing is swallowed)
        _fail(traceback.format_exc(), 1)


DOCTOR = "`presswork doctor` looks at each service"


def _fail(message: str, code: int) -> None:
    print(message, file=sys.stderr)  # noqa: T201
    sys.exit(code)
