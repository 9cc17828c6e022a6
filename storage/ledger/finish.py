"""How work ends: one guarded transaction per batch, the only place that writes artifacts."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, Row, insert, text
from sqlalchemy.exc import OperationalError

from storage import counters
from storage.lifecycle import JobStatus, WaitReason
from storage.tables import Artifact

BACKOFF_FIRST_S = 5.0
BACKOFF_MOST_S = 300.0


@dataclass(frozen=True)
class NewArtifact:
    """An output that lies in the bucket already."""

    object_key: str
    media_type: str
    sha256: str
    size_bytes: int
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Succeeded:
    """The job's outputs are stored."""

    job_id: UUID
    artifacts: Sequence[NewArtifact]


@dataclass(frozen=True)
class Failed:
    """The job went wrong; ``retry``: another attempt may go better."""

    job_id: UUID
    code: str
    message: str
    retry: bool


@dataclass(frozen=True)
class Released:
    """The worker gives the job back untouched: the attempt does not count."""

    job_id: UUID


Outcome = Succeeded | Failed | Released


@dataclass(frozen=True)
class _Change:
    status: JobStatus
    attempts: int
    error: Failed | None = None
    wait_s: float | None = None


def finish(engine: Engine, claim_id: UUID, outcomes: Sequence[Outcome]) -> dict[UUID, JobStatus]:
    """Record what became of a batch, and give each job's status as this claim left it.

    A job that is missing from the answer is no longer this claim's: its lease expired and it was
    given to someone else. It never keeps its mates from being recorded. Running the same finish
    again is safe: where a COMMIT's answer is lost, that is how to learn what happened.
    """
    try:
        return _finish(engine, claim_id, outcomes)
    except OperationalError:
        return _finish(engine, claim_id, outcomes)


def _finish(engine: Engine, claim_id: UUID, outcomes: Sequence[Outcome]) -> dict[UUID, JobStatus]:
    by_job = {outcome.job_id: outcome for outcome in outcomes}
    with engine.begin() as connection:
        # Before the jobs, as whoever takes an expired lease does.
        connection.execute(
            text("SELECT id FROM claims WHERE id = :id FOR UPDATE"), {"id": claim_id}
        )
        held = connection.execute(
            text(
                """
                SELECT id, tenant_id, campaign_id, attempts, max_attempts, cancel_requested
                FROM jobs
                WHERE id = ANY(:ids) AND claim_id = :claim_id AND status = 'running'
                ORDER BY id FOR UPDATE
                """
            ),
            {"ids": list(by_job), "claim_id": claim_id},
        ).all()
        changes = {row.id: _change(row, by_job[row.id]) for row in held}
        if changes:
            _update(connection, claim_id, changes)
            _insert_artifacts(connection, claim_id, held, changes, by_job)
            counters.add(
                connection,
                claim_id,
                counters.moves(
                    (row.campaign_id, JobStatus.RUNNING, changes[row.id].status) for row in held
                ),
            )
        _drop_claim(connection, claim_id)
        done_before = _done_before(connection, claim_id, by_job.keys() - changes.keys())
    return {job_id: change.status for job_id, change in changes.items()} | done_before


def _change(job: Row[Any], outcome: Outcome) -> _Change:
    """What an outcome means for a running job."""
    if job.cancel_requested:
        # Cancel was committed before this finish: it wins, and the output stays unreferenced.
        return _Change(JobStatus.CANCELLED, job.attempts)
    match outcome:
        case Succeeded():
            return _Change(JobStatus.SUCCEEDED, job.attempts)
        case Released():
            return _Change(JobStatus.QUEUED, job.attempts - 1)
        case Failed(retry=True) if job.attempts < job.max_attempts:
            return _Change(JobStatus.WAITING, job.attempts, outcome, backoff_s(job.attempts))
        case Failed():
            return _Change(JobStatus.FAILED, job.attempts, outcome)


def backoff_s(attempts: int) -> float:
    """Seconds before the next attempt: doubling, and spread so that mates do not come together."""
    ceiling = min(BACKOFF_FIRST_S * 2.0 ** (attempts - 1), BACKOFF_MOST_S)
    return ceiling * random.uniform(0.5, 1.0)  # noqa: S311 (spreading load, not a secret)


def _update(connection: Connection, claim_id: UUID, changes: Mapping[UUID, _Change]) -> None:
    updated = connection.execute(
        text(
            """
            UPDATE jobs SET
                status = change.status,
                attempts = change.attempts,
                error = CASE WHEN change.code IS NULL THEN NULL ELSE
                    jsonb_build_object('code', change.code, 'message', change.message) END,
                wait_reason = CASE WHEN change.status = 'waiting' THEN :backoff END,
                available_at = CASE WHEN change.status = 'waiting' THEN
                    clock_timestamp() + make_interval(secs => change.wait_s) END,
                finished_at = CASE WHEN change.status IN ('succeeded', 'failed', 'cancelled')
                    THEN clock_timestamp() END,
                -- Kept on final rows: it tells whose finish it was.
                claim_id = CASE WHEN change.status IN ('queued', 'waiting') THEN NULL
                    ELSE claim_id END
            FROM unnest(CAST(:ids AS uuid[]), CAST(:statuses AS text[]),
                        CAST(:attempts AS smallint[]), CAST(:codes AS text[]),
                        CAST(:messages AS text[]), CAST(:waits_s AS double precision[]))
                AS change (id, status, attempts, code, message, wait_s)
            WHERE jobs.id = change.id AND jobs.claim_id = :claim_id AND jobs.status = 'running'
            RETURNING jobs.id
            """
        ),
        {
            "claim_id": claim_id,
            "backoff": WaitReason.BACKOFF,
            "ids": list(changes),
            "statuses": [change.status.value for change in changes.values()],
            "attempts": [change.attempts for change in changes.values()],
            "codes": [c.error.code if c.error else None for c in changes.values()],
            "messages": [_storable(c.error.message) if c.error else None for c in changes.values()],
            "waits_s": [change.wait_s for change in changes.values()],
        },
    ).scalars()
    assert set(updated) == set(changes), "rows that we hold locked cannot have changed"


def _storable(message: str) -> str:
    # It may hold anything, and what PostgreSQL cannot hold must not keep the batch from ending.
    return message.replace("\0", "\ufffd").encode(errors="replace").decode()


def _insert_artifacts(
    connection: Connection,
    claim_id: UUID,
    held: Sequence[Row[Any]],
    changes: Mapping[UUID, _Change],
    outcomes: Mapping[UUID, Outcome],
) -> None:
    rows = []
    for job in held:
        outcome = outcomes[job.id]
        if changes[job.id].status is JobStatus.SUCCEEDED and isinstance(outcome, Succeeded):
            rows += [
                {
                    "tenant_id": job.tenant_id,
                    "campaign_id": job.campaign_id,
                    "job_id": job.id,
                    "claim_id": claim_id,
                    "attempt": job.attempts,
                    "index": index,
                    "object_key": artifact.object_key,
                    "media_type": artifact.media_type,
                    "sha256": artifact.sha256,
                    "size_bytes": artifact.size_bytes,
                    "facts": dict(artifact.facts),
                }
                for index, artifact in enumerate(outcome.artifacts)
            ]
    if rows:
        connection.execute(insert(Artifact), rows)


def _drop_claim(connection: Connection, claim_id: UUID) -> None:
    connection.execute(
        text(
            """
            DELETE FROM claims WHERE id = :id AND NOT EXISTS (
                SELECT FROM jobs WHERE claim_id = :id AND status = 'running'
            )
            """
        ),
        {"id": claim_id},
    )


def _done_before(
    connection: Connection, claim_id: UUID, job_ids: set[UUID]
) -> dict[UUID, JobStatus]:
    """Jobs that this same claim has finished already: an earlier COMMIT got through after all."""
    if not job_ids:
        return {}
    rows = connection.execute(
        text(
            """
            SELECT id, status FROM jobs
            WHERE id = ANY(:ids) AND claim_id = :claim_id AND status <> 'running'
            """
        ),
        {"ids": list(job_ids), "claim_id": claim_id},
    )
    return {row.id: JobStatus(row.status) for row in rows}
