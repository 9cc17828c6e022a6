"""How the command answers: for people, or with ``--json`` one JSON document on stdout."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console

from jobs import settings
from jobs.devices import parse_devices
from jobs.services import Services, open_services
from storage import tenants

JsonFlag = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="Where the local stack keeps its state.", envvar="PRESSWORK_DATA"),
]


def _check_devices(devices: str) -> str:
    try:
        parse_devices(devices)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return devices


DevicesOption = Annotated[
    str,
    typer.Option(
        "--devices",
        help="cpu, cpu:N, GPU numbers such as 0,1 or UUIDs (also of MIG parts), or all.",
        callback=_check_devices,
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--idempotency-key",
        help="Submitting again under the same key gives the first one again.",
    ),
]

notes = Console(stderr=True)
"""What is said beside the answer: stdout is for the answer alone."""


@contextmanager
def opened(data: Path | None = None) -> Iterator[tuple[Services, UUID]]:
    """The services, and the id of the tenant on whose behalf the command acts."""
    config = settings.load(data)
    with open_services(config, "presswork command") as services:
        with services.engine.begin() as connection:
            tenant_id = tenants.find(connection, config.tenant)
        yield services, tenant_id


def answer(value: Any, *, as_json: bool, text: str) -> None:
    """Print ``text``, or ``value`` (a dataclass, or anything that JSON knows) as JSON."""
    typer.echo(json.dumps(_plain(value), ensure_ascii=False, indent=2) if as_json else text)


def answer_line(value: Any) -> None:
    """Print ``value`` as one line of JSON, one of many."""
    typer.echo(json.dumps(_plain(value), ensure_ascii=False))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return value.isoformat() if isinstance(value, datetime) else str(value)
