"""``presswork purge``."""

import re
from collections.abc import Iterable
from datetime import timedelta
from typing import Annotated
from uuid import UUID

import typer

from jobs import settings
from jobs.cli.output import DataOption, JsonFlag, answer, notes
from jobs.problems import BadInputError, Problem
from jobs.services import Services, open_services
from storage import retention, tenants
from storage.retention import Age, Purged
from storage.tenants import UnknownTenantError

LONGEST = timedelta(days=9999)
_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}


def add_to(app: typer.Typer) -> None:
    """Add ``purge``."""
    app.command()(purge)


def purge(
    older_than: Annotated[
        str, typer.Option("--older-than", help="For how long things are kept: 30d, 12h.")
    ],
    tenant: Annotated[str | None, typer.Option(help="Of this tenant only.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and delete nothing.")] = False,
    data: DataOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Delete campaigns and jobs that ended long ago, with all that belongs to them.

    Of every tenant, and for good: rows, recipients' data and objects. What is unfinished stays.
    """
    kept = _age(older_than)
    with open_services(settings.load(data), "presswork command") as services:
        tenant_id = None
        if tenant is not None:
            tenant_id = _tenant(services, tenant)
        age = Age(kept.total_seconds(), tenant_id)
        if dry_run:
            total = _sum(retention.rehearse(services.engine, age), "would delete")
        else:
            total = _sum(retention.purge(services.engine, services.objects, age), "deleted")
    verb = "would delete" if dry_run else "deleted"
    answer(total, as_json=as_json, text=f"{verb} {_said(total)}")


def _age(text: str) -> timedelta:
    """``30d`` as a span of time."""
    found = re.fullmatch(r"0*([1-9]\d{0,8})([dhms])", text.strip(), flags=re.ASCII)
    age = timedelta(**{_UNITS[found[2]]: int(found[1])}) if found else None
    if age is None or age > LONGEST:
        problem = f"{text!r} is no age: use a number with d, h, m or s, such as 30d or 12h"
        raise BadInputError(Problem(problem, field="--older-than"))
    return age


def _tenant(services: Services, name: str) -> UUID:
    try:
        with services.engine.begin() as connection:
            return tenants.find(connection, name)
    except UnknownTenantError as error:
        problem = Problem(f"there is no tenant {name!r}", field="--tenant")
        raise BadInputError(problem) from error


def _sum(parts: Iterable[Purged], verb: str) -> Purged:
    total = Purged()
    with notes.status(f"{verb} nothing yet") as shown:
        for part in parts:
            total += part
            shown.update(f"{verb} {_said(total)}")
    return total


def _said(purged: Purged) -> str:
    return ", ".join(f"{n} {name}" for name, n in vars(purged).items())
