"""For whoever runs the house: ``doctor``, ``workers`` and ``tenant``."""

from dataclasses import replace
from typing import Annotated, Any
from uuid import UUID

import typer
from sqlalchemy import Connection

from jobs import doctor as examination
from jobs import settings
from jobs.cli.output import DataOption, JsonFlag, answer
from jobs.kinds.values import check_storable
from jobs.problems import BadInputError, Problem
from jobs.services import open_services
from jobs.trainings import caps
from storage import tenants, training_caps, workers
from storage.tenants import UnknownTenantError
from storage.training_caps import OwnCaps
from storage.workers import Worker

tenant_commands = typer.Typer(no_args_is_help=True, help="Tenants and their API keys.")


def add_to(app: typer.Typer) -> None:
    """Add them."""
    app.command()(doctor)
    app.command("workers")(list_workers)
    app.add_typer(tenant_commands, name="tenant")


def doctor(data: DataOption = None, as_json: JsonFlag = False) -> None:
    """Look at each service, and say what to do about what is wrong."""
    findings = examination.examine(settings.load(data))
    lines = [
        f"{'ok ' if finding.ok else 'BAD'} {finding.name}: {finding.says}"
        + (f"\n    -> {finding.advice}" if not finding.ok else "")
        for finding in findings
    ]
    answer(findings, as_json=as_json, text="\n".join(lines))
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def list_workers(data: DataOption = None, as_json: JsonFlag = False) -> None:
    """List the workers: what each is at, what it has loaded, and how much memory that takes."""
    with open_services(settings.load(data), "presswork command") as services:
        found = workers.listed(services.engine, within_s=examination.WORKER_SEEN_S)
    answer(found, as_json=as_json, text="\n".join(map(_lines, found)) or "there is none")


def _lines(worker: Worker) -> str:
    """A line of what it is, and one for each thing that is wrong."""
    at = "not seen since " + worker.seen_at.isoformat(" ", "seconds")
    if worker.is_up:
        at = f"at {worker.batch_key}" if worker.batch_key else "idle"
    parts = [at, f"pool {worker.pool}"]
    if worker.outputs_per_s is not None:
        parts.append(f"{worker.outputs_per_s:.2f} outputs/s")
    if worker.memory_used_bytes is not None and worker.memory_total_bytes is not None:
        used, total = worker.memory_used_bytes / 1e9, worker.memory_total_bytes / 1e9
        parts.append(f"{used:.1f} of {total:.1f} GB")
    parts.append(f"models: {', '.join(worker.models) or 'none'}")
    if worker.counters:
        counted = sorted(worker.counters.items())
        parts.append(", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in counted))
    line = f"{worker.name}: {'; '.join(parts)}"
    eager = examination.runs_eager(worker.counters)
    return f"{line}\n    -> {eager}" if eager else line


@tenant_commands.command("add")
def add_tenant(
    name: Annotated[str, typer.Argument(help="The tenant; created where it does not exist.")],
    key_name: Annotated[str, typer.Option("--key-name", help="What the key is for.")] = "api",
    admin: Annotated[
        bool, typer.Option("--admin", help="It may also add, check and retire everybody's models.")
    ] = False,
    data: DataOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Make an API key for a tenant. It is shown once and cannot be shown again."""
    _check_names({"NAME": name, "--key-name": key_name})
    with (
        open_services(settings.load(data), "presswork command") as services,
        services.engine.begin() as connection,
    ):
        tenant_id = tenants.ensure(connection, name)
        key = tenants.new_key(connection, tenant_id, key_name, is_admin=admin)
    answer({"tenant": name, "id": tenant_id, "api_key": key}, as_json=as_json, text=key)


@tenant_commands.command("limits")
def limit_tenant(
    name: Annotated[str, typer.Argument(help="The tenant.")],
    max_steps: Annotated[int | None, typer.Option(min=0, help="Of a training.")] = None,
    max_hours: Annotated[float | None, typer.Option(min=0, help="Of a training at work.")] = None,
    max_pictures: Annotated[
        int | None, typer.Option(min=0, help="Of the dataset of a training.")
    ] = None,
    reset: Annotated[
        bool, typer.Option("--reset", help="First forget all that were given: as for all tenants.")
    ] = False,
    data: DataOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what a tenant's trainings may have at most, and give it caps of its own."""
    given = {"max_steps": max_steps, "max_hours": max_hours, "max_pictures": max_pictures}
    changes: dict[str, Any] = {field: value for field, value in given.items() if value is not None}
    config = settings.load(data)
    with (
        open_services(config, "presswork command") as services,
        services.engine.begin() as connection,
    ):
        tenant_id = _found(connection, name)
        own = OwnCaps() if reset else training_caps.of(connection, tenant_id)
        if reset or changes:
            training_caps.put(connection, tenant_id, replace(own, **changes))
        found = caps.caps_of(connection, config, tenant_id)
        own = training_caps.of(connection, tenant_id)
    lines = [
        f"{field.replace('_', ' ')}: {getattr(found, field):.12g}"
        + (" (as for all)" if value is None else "")
        for field, value in vars(own).items()
    ]
    answer(found, as_json=as_json, text="\n".join(lines))


def _found(connection: Connection, name: str) -> UUID:
    try:
        return tenants.find(connection, name)
    except UnknownTenantError as error:
        message = f"there is no tenant {name!r}: `presswork tenant add` makes one"
        raise BadInputError(Problem(message, field="NAME")) from error


def _check_names(given: dict[str, str]) -> None:
    """Refuse what cannot be stored, or would be a name that nobody can type."""
    for field, text in given.items():
        if not text.strip():
            raise BadInputError(Problem("must not be empty", field=field))
        try:
            check_storable(text)
        except ValueError as error:
            raise BadInputError(Problem(str(error), field=field)) from error
