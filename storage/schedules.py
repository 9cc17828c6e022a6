"""Schedules as rows. Whoever changes one, fires it or starts a run of it holds its row's lock."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.errors import LockNotAvailable
from sqlalchemy import Connection, RowMapping, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import OperationalError

from storage.tables import Schedule

DEFINITION = (
    "cron",
    "timezone",
    "window",
    "late",
    "blackout_dates",
    "catch_up",
    "overlap",
    "campaign",
)
"""The columns that hold what a schedule's owner has written."""


LOCK_WAIT_S = 5


class ScheduleBusyError(Exception):
    """A run of the schedule is being started, which locks it for as long as that takes."""


class DuplicateScheduleError(Exception):
    """The tenant has a schedule of that name."""


@dataclass(frozen=True)
class ScheduleView:
    """A schedule as its owner sees it. ``next_fire_at`` None: it does not fire any more."""

    id: UUID
    name: str
    cron: str
    timezone: str
    window: str | None
    late: str
    blackout_dates: list[str]
    catch_up: str
    overlap: str
    campaign: dict[str, Any]
    paused_at: datetime | None
    next_fire_at: datetime | None
    created_at: datetime
    updated_at: datetime

    @property
    def definition(self) -> dict[str, Any]:
        """What its owner has written, as JSON."""
        return {name: getattr(self, name) for name in DEFINITION}


def now(connection: Connection) -> datetime:
    """The database's clock, by which schedules go."""
    moment: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    return moment


def add(
    connection: Connection,
    tenant_id: UUID,
    name: str,
    definition: Mapping[str, Any],
    next_fire_at: datetime | None,
) -> UUID:
    """Store a schedule and give its id.

    Raises:
        DuplicateScheduleError: the name is taken.
    """
    schedule_id: UUID | None = connection.execute(
        upsert(Schedule)
        .values(tenant_id=tenant_id, name=name, next_fire_at=next_fire_at, **definition)
        .on_conflict_do_nothing(index_elements=["tenant_id", "name"])
        .returning(Schedule.id)
    ).scalar()
    if schedule_id is None:
        raise DuplicateScheduleError(name)
    return schedule_id


def find(
    connection: Connection, tenant_id: UUID, wanted: UUID | str, *, lock: bool = False
) -> ScheduleView | None:
    """The tenant's schedule of that id, or of that name.

    Raises:
        ScheduleBusyError: it was to be locked, and a run of it has been starting for a while.
    """
    query = select(Schedule.__table__).where(
        Schedule.tenant_id == tenant_id,
        Schedule.id == wanted if isinstance(wanted, UUID) else Schedule.name == wanted,
    )
    if lock:
        query = query.with_for_update(key_share=True)
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_WAIT_S}s'")
    try:
        row = connection.execute(query).mappings().first()
    except OperationalError as error:
        if isinstance(error.orig, LockNotAvailable):
            raise ScheduleBusyError(str(wanted)) from error
        raise
    return _view(row) if row else None


def every(connection: Connection, tenant_id: UUID) -> list[ScheduleView]:
    """The tenant's schedules by name."""
    rows = connection.execute(
        select(Schedule.__table__).where(Schedule.tenant_id == tenant_id).order_by(Schedule.name)
    )
    return [_view(row) for row in rows.mappings()]


def next_due(connection: Connection, now: datetime, seen: Sequence[UUID]) -> ScheduleView | None:
    """A schedule whose time has come, locked; not one of ``seen``, nor one that others hold."""
    row = (
        connection.execute(
            select(Schedule.__table__)
            .where(
                Schedule.paused_at.is_(None),
                Schedule.next_fire_at <= now,
                Schedule.id.not_in(seen),
            )
            .order_by(Schedule.next_fire_at)
            .limit(1)
            .with_for_update(skip_locked=True, key_share=True)
        )
        .mappings()
        .first()
    )
    return _view(row) if row else None


def lock(connection: Connection, schedule_id: UUID) -> ScheduleView | None:
    """The schedule, locked; None: it is gone, or another process is at work on it."""
    row = (
        connection.execute(
            select(Schedule.__table__)
            .where(Schedule.id == schedule_id)
            .with_for_update(skip_locked=True, key_share=True)
        )
        .mappings()
        .first()
    )
    return _view(row) if row else None


def change(connection: Connection, schedule_id: UUID, **columns: Any) -> None:
    """Set columns of a schedule that the caller has locked."""
    connection.execute(update(Schedule).where(Schedule.id == schedule_id).values(**columns))


def redefine(
    connection: Connection,
    schedule_id: UUID,
    name: str,
    definition: Mapping[str, Any],
    next_fire_at: datetime | None,
) -> None:
    """Give a schedule that the caller has locked another definition.

    Raises:
        DuplicateScheduleError: another schedule has the name.
    """
    taken = connection.execute(
        text(
            """
            SELECT FROM schedules WHERE name = :name AND id <> :id
              AND tenant_id = (SELECT tenant_id FROM schedules WHERE id = :id)
            """
        ),
        {"id": schedule_id, "name": name},
    ).first()
    if taken is not None:
        raise DuplicateScheduleError(name)
    change(
        connection,
        schedule_id,
        name=name,
        next_fire_at=next_fire_at,
        updated_at=now(connection),
        **definition,
    )


def remove(connection: Connection, tenant_id: UUID, schedule_id: UUID) -> bool:
    """Delete a schedule with its history; the campaigns that it has started stay."""
    return bool(
        connection.execute(
            text("DELETE FROM schedules WHERE id = :id AND tenant_id = :tenant_id"),
            {"id": schedule_id, "tenant_id": tenant_id},
        ).rowcount
    )


def _view(row: RowMapping) -> ScheduleView:
    return ScheduleView(**{field.name: row[field.name] for field in fields(ScheduleView)})
