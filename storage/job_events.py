"""What a job that runs for long tells of its course: written by its claim, read by its tenant."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, text

from storage.lifecycle import JobStatus


@dataclass(frozen=True)
class NewEvent:
    """Something that happened ``age_s`` seconds ago. ``data`` is JSON; see `jobs.events`."""

    name: str
    data: Mapping[str, Any]
    age_s: float = 0.0


@dataclass(frozen=True)
class JobEvent:
    """Something that has happened. Of one job a later event has a greater ``id``."""

    id: int
    at: datetime
    name: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Course:
    """Some events of a job, and its status. If that is final, no event follows but what is there.

    ``status`` is as of just before the events were read.
    """

    status: JobStatus
    events: list[JobEvent]


def add(engine: Engine, claim_id: UUID, job_id: UUID, events: Sequence[NewEvent]) -> bool:
    """Write events down in their order; False: the job is not this claim's any more.

    Numbers that JSON does not know (NaN, infinity) become null. Whoever writes again what may
    have been written, since the answer to COMMIT was lost, may have it there twice.
    """
    with engine.begin() as connection:
        held = connection.execute(
            _ADD,
            {
                "job_id": job_id,
                "claim_id": claim_id,
                "events": json.dumps(
                    [
                        {"name": event.name, "data": _storable(event.data), "age_s": event.age_s}
                        for event in events
                    ]
                ),
            },
        ).scalar_one()
    return bool(held)


# The lock on the job is held up to COMMIT, and ids are drawn under it: so a job's events become
# visible in the order of their ids, and all of them before the job is finished or another claim's.
# Whoever reads on from the last id that was seen misses nothing.
_ADD = text(
    """
    WITH held AS MATERIALIZED (
        SELECT id FROM jobs WHERE id = :job_id AND claim_id = :claim_id AND status = 'running'
        FOR NO KEY UPDATE
    ), written AS (
        INSERT INTO job_events (job_id, claim_id, at, name, data)
        SELECT held.id, :claim_id, clock_timestamp() - make_interval(secs => event.age_s),
               event.name, event.data
        FROM held, ROWS FROM (
            jsonb_to_recordset(CAST(:events AS jsonb))
                AS (name text, data jsonb, age_s double precision)
        ) WITH ORDINALITY AS event (name, data, age_s, place)
        ORDER BY event.place
    )
    SELECT EXISTS (SELECT FROM held)
    """
)


def _storable(value: Any) -> Any:
    """``value`` without what PostgreSQL's JSON cannot hold."""
    if isinstance(value, Mapping):
        return {_storable(str(key)): _storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(item) for item in value]
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode(errors="replace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def after(
    connection: Connection, tenant_id: UUID, job_id: UUID, after: int, limit: int
) -> Course | None:
    """Up to ``limit`` events of the tenant's job from behind the id ``after``; None: no such job.

    For a connection that sees with each statement what was committed before it (READ COMMITTED).
    """
    # The status first: what a job that has ended had to say was committed before its end.
    status = connection.execute(
        text("SELECT status FROM jobs WHERE id = :job_id AND tenant_id = :tenant_id"),
        {"job_id": job_id, "tenant_id": tenant_id},
    ).scalar()
    if status is None:
        return None
    rows = connection.execute(
        text(
            """
            SELECT id, at, name, data FROM job_events
            WHERE job_id = :job_id AND id > :after ORDER BY id LIMIT :limit
            """
        ),
        {"job_id": job_id, "after": after, "limit": limit},
    )
    return Course(JobStatus(status), [JobEvent(**row._asdict()) for row in rows])


def find(connection: Connection, tenant_id: UUID, job_id: UUID, event_id: int) -> JobEvent | None:
    """The event of that id, of the tenant's job."""
    row = connection.execute(
        text(
            """
            SELECT job_events.id, at, job_events.name, data
            FROM job_events JOIN jobs ON jobs.id = job_id
            WHERE job_events.id = :event_id AND jobs.id = :job_id AND tenant_id = :tenant_id
            """
        ),
        {"event_id": event_id, "job_id": job_id, "tenant_id": tenant_id},
    ).first()
    return JobEvent(**row._asdict()) if row else None


def delete(connection: Connection, job_ids: Sequence[UUID]) -> list[UUID]:
    """Delete all events of the jobs, and give the jobs that had any."""
    return list(
        connection.execute(
            text(
                """
                WITH gone AS (
                    DELETE FROM job_events WHERE job_id = ANY(:ids) RETURNING job_id
                )
                SELECT DISTINCT job_id FROM gone
                """
            ),
            {"ids": list(job_ids)},
        ).scalars()
    )
