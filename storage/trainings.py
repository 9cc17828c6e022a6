"""The jobs that are trainings, as rows: few among all, and found by an index of their own."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, text

from storage.lifecycle import JobStatus


@dataclass(frozen=True)
class TrainingJob:
    """A training as it was asked for, and what has become of it.

    ``progress`` is what it has told last of its steps, as `jobs.events` says.
    """

    id: UUID
    kind: str
    status: JobStatus
    request: dict[str, Any]
    idempotency_key: str | None
    error: dict[str, Any] | None
    created_at: datetime
    finished_at: datetime | None
    progress: dict[str, Any] | None


# The kinds as the index has them, as a literal: it would not be used for bound parameters.
_SELECT = """
    SELECT id, kind, status, request, idempotency_key, error, created_at, finished_at,
           (SELECT data FROM job_events WHERE job_id = jobs.id AND name = 'progress'
            ORDER BY job_events.id DESC LIMIT 1) AS progress
    FROM jobs
    WHERE tenant_id = :tenant_id AND kind IN ('finetune', 'train')
"""


def find(connection: Connection, tenant_id: UUID, job_id: UUID) -> TrainingJob | None:
    """The tenant's training of that id."""
    found = _read(connection, "AND id = :id", tenant_id=tenant_id, id=job_id)
    return found[0] if found else None


def every(
    connection: Connection, tenant_id: UUID, *, before: UUID | None = None, limit: int = 50
) -> list[TrainingJob]:
    """The tenant's trainings, newest first, from behind ``before``."""
    behind = "AND id < :before" if before else ""
    values = {"before": before} if before else {}
    return _read(
        connection,
        f"{behind} ORDER BY id DESC LIMIT :limit",
        tenant_id=tenant_id,
        limit=limit,
        **values,
    )


def unfinished(connection: Connection, tenant_id: UUID, name: str) -> list[TrainingJob]:
    """Those that are on their way to make a model of that name."""
    return _read(
        connection,
        "AND status IN ('waiting', 'queued', 'running') AND request->>'name' = :name ORDER BY id",
        tenant_id=tenant_id,
        name=name,
    )


@contextmanager
def held_name(engine: Engine, tenant_id: UUID, name: str) -> Iterator[Connection]:
    """A transaction in which nobody else can take that name for a training of the tenant's."""
    with engine.begin() as connection:
        connection.execute(
            text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"),
            {"name": f"training {tenant_id} {name}"},
        )
        yield connection


def has_key(connection: Connection, tenant_id: UUID, idempotency_key: str) -> bool:
    """Whether a job of the tenant's was submitted under that idempotency key."""
    found = connection.execute(
        text("SELECT 1 FROM jobs WHERE tenant_id = :tenant_id AND idempotency_key = :key"),
        {"tenant_id": tenant_id, "key": idempotency_key},
    )
    return found.first() is not None


def _read(connection: Connection, rest: str, **values: Any) -> list[TrainingJob]:
    rows = connection.execute(text(_SELECT + rest), values)
    return [TrainingJob(**{**row._asdict(), "status": JobStatus(row.status)}) for row in rows]
