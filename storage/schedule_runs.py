"""The runs of schedules: a row per fire, which outlives a crash between fire and start."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text, update
from sqlalchemy.dialects.postgresql import insert

from storage import schedules
from storage.lifecycle import RunStatus, RunTrigger
from storage.schedules import ScheduleView
from storage.tables import ScheduleRun

IDLE_S = 300
START_S = 1800
LOOKED_BACK = 100
"""Started runs that are looked at for one that is not over: the others are long past."""


@dataclass(frozen=True)
class Fire:
    """A moment at which a schedule fires; with a ``reason``, no campaign comes of it."""

    time: datetime
    reason: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class RunView:
    """One run as its schedule's owner sees it.

    ``reason`` says why it was skipped, has failed, or is still due. ``next_try_at`` is when it is
    looked at again.
    """

    id: UUID
    schedule_id: UUID
    fire_time: datetime
    trigger: RunTrigger
    status: RunStatus
    reason: dict[str, Any] | None
    next_try_at: datetime | None
    campaign_id: UUID | None
    created_at: datetime


@dataclass(frozen=True)
class DueRun:
    """A run in the hands of whoever starts it: its schedule's row is locked.

    ``definition`` is the schedule's as it was when it fired.
    """

    id: UUID
    tenant_id: UUID
    schedule_id: UUID
    name: str
    fire_time: datetime
    trigger: RunTrigger
    give_up_at: datetime | None
    definition: Mapping[str, Any]


def record(
    connection: Connection,
    schedule_id: UUID,
    fires: Sequence[Fire],
    trigger: RunTrigger = RunTrigger.CRON,
) -> int:
    """Record fires of a schedule; how many were not there yet."""
    if not fires:
        return 0
    recorded = connection.execute(
        insert(ScheduleRun)
        .on_conflict_do_nothing(index_elements=["schedule_id", "fire_time"])
        .returning(ScheduleRun.id),
        [
            {
                "schedule_id": schedule_id,
                "fire_time": fire.time,
                "trigger": trigger,
                "status": RunStatus.SKIPPED if fire.reason else RunStatus.DUE,
                "reason": fire.reason,
                "next_try_at": None if fire.reason else fire.time,
            }
            for fire in fires
        ],
    )
    return len(recorded.all())


def keep_definition(connection: Connection, schedule: ScheduleView) -> None:
    """Have the runs that are due start as the schedule is now, whatever becomes of it."""
    connection.execute(
        update(ScheduleRun)
        .where(
            ScheduleRun.schedule_id == schedule.id,
            ScheduleRun.status == RunStatus.DUE,
            ScheduleRun.definition.is_(None),
        )
        .values(definition=schedule.definition)
    )


def next_due(connection: Connection, now: datetime, seen: Sequence[UUID]) -> UUID | None:
    """A run that is to be tried, oldest fire first; not one of ``seen``."""
    found: UUID | None = connection.execute(
        text(
            """
            SELECT id FROM schedule_runs
            WHERE status = 'due' AND next_try_at <= :now AND id <> ALL(CAST(:seen AS uuid[]))
            ORDER BY fire_time LIMIT 1
            """
        ),
        {"now": now, "seen": list(seen)},
    ).scalar()
    return found


def take(connection: Connection, run_id: UUID) -> DueRun | None:
    """The run, until the transaction ends; None: it is not due any more, or others are at it.

    A process that stalls while it holds it is cut off by the server after ``IDLE_S``, or where it
    stalls in the middle of a COPY, which does not count as idle, after ``START_S``.
    """
    connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_S}s'")
    connection.exec_driver_sql(f"SET LOCAL transaction_timeout = '{START_S}s'")
    schedule_id = connection.execute(
        text("SELECT schedule_id FROM schedule_runs WHERE id = :id"), {"id": run_id}
    ).scalar()
    schedule = schedules.lock(connection, schedule_id) if schedule_id else None
    if schedule is None:
        return None
    row = connection.execute(
        text(
            """
            SELECT runs.fire_time, runs.trigger, runs.give_up_at, runs.definition,
                   schedules.tenant_id
            FROM schedule_runs AS runs JOIN schedules ON schedules.id = runs.schedule_id
            WHERE runs.id = :id AND runs.status = 'due' FOR UPDATE OF runs
            """
        ),
        {"id": run_id},
    ).first()
    if row is None:
        return None
    return DueRun(
        id=run_id,
        tenant_id=row.tenant_id,
        schedule_id=schedule.id,
        name=schedule.name,
        fire_time=row.fire_time,
        trigger=RunTrigger(row.trigger),
        give_up_at=row.give_up_at,
        definition=row.definition or schedule.definition,
    )


def unfinished_before(connection: Connection, run: DueRun) -> datetime | None:
    """The fire time of an earlier run of the same schedule that is not over yet."""
    found: datetime | None = connection.execute(
        text(
            """
            SELECT fire_time FROM (
                (SELECT fire_time, NULL AS campaign_id FROM schedule_runs
                 WHERE schedule_id = :schedule_id AND fire_time < :fire_time AND status = 'due')
                UNION ALL
                (SELECT fire_time, campaign_id FROM schedule_runs
                 WHERE schedule_id = :schedule_id AND fire_time < :fire_time
                   AND status = 'started' AND campaign_id IS NOT NULL
                 ORDER BY fire_time DESC LIMIT :looked_back)
            ) AS earlier LEFT JOIN campaigns ON campaigns.id = earlier.campaign_id
            WHERE campaigns.id IS NULL OR campaigns.status = 'compiling'
               OR (campaigns.status = 'running' AND 0 < (
                    SELECT sum(jobs) FROM campaign_counters
                    WHERE campaign_id = campaigns.id
                      AND campaign_counters.status IN ('waiting', 'queued', 'running')))
            ORDER BY fire_time LIMIT 1
            """
        ),
        {
            "schedule_id": run.schedule_id,
            "fire_time": run.fire_time,
            "looked_back": LOOKED_BACK,
        },
    ).scalar()
    return found


def start(connection: Connection, run_id: UUID, campaign_id: UUID) -> None:
    """Record that the run's campaign is there, in the transaction that stores it."""
    _end(connection, run_id, RunStatus.STARTED, campaign_id=campaign_id)


def settle(
    connection: Connection, run_id: UUID, status: RunStatus, reason: Mapping[str, Any]
) -> None:
    """End a run that is still due without a campaign."""
    _end(connection, run_id, status, reason=reason)


def _end(connection: Connection, run_id: UUID, status: RunStatus, **columns: Any) -> None:
    values = {"reason": None, "definition": None, "next_try_at": None, **columns}
    connection.execute(
        update(ScheduleRun)
        .where(ScheduleRun.id == run_id, ScheduleRun.status == RunStatus.DUE)
        .values(status=status, **values)
    )


def put_off(
    connection: Connection,
    run_id: UUID,
    next_try_at: datetime,
    reason: Mapping[str, Any],
    give_up_at: datetime | None = None,
) -> None:
    """Have a run that is still due tried again; the first ``give_up_at`` stays."""
    connection.execute(
        text(
            """
            UPDATE schedule_runs SET next_try_at = :next_try_at, reason = CAST(:reason AS jsonb),
                give_up_at = coalesce(give_up_at, :give_up_at)
            WHERE id = :id AND status = 'due'
            """
        ),
        {
            "id": run_id,
            "next_try_at": next_try_at,
            "reason": json.dumps(reason),
            "give_up_at": give_up_at,
        },
    )


def history(
    connection: Connection, schedule_id: UUID, *, before: datetime | None = None, limit: int = 50
) -> list[RunView]:
    """Runs of a schedule, the newest fire first, from before the fire time ``before``."""
    rows = connection.execute(
        text(
            """
            SELECT * FROM schedule_runs
            WHERE schedule_id = :schedule_id
              AND (CAST(:before AS timestamptz) IS NULL OR fire_time < :before)
            ORDER BY fire_time DESC LIMIT :limit
            """
        ),
        {"schedule_id": schedule_id, "before": before, "limit": limit},
    ).mappings()
    return [
        RunView(
            **{
                **{field.name: row[field.name] for field in fields(RunView)},
                "trigger": RunTrigger(row["trigger"]),
                "status": RunStatus(row["status"]),
            }
        )
        for row in rows
    ]
