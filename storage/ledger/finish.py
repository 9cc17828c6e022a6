"""How work ends: one guarded transaction per batch, the only place that writes artifacts."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, Row, text
from sqlalchemy.exc import OperationalError

from storage import counters, models, orphans
from storage.ledger import makings, needs
from storage.lifecycle import FINAL, JobStatus, WaitReason
from storage.models import ModelCard

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
    """The job's outputs are stored.

    ``registers`` is the model of the job's tenant that it has made: it is registered with the end
    of the job, or neither is. If its name is taken by then, the job has failed instead.
    """

    job_id: UUID
    artifacts: Sequence[NewArtifact]
    registers: ModelCard | None = None


@dataclass(frozen=True)
class Failed:
    """The job went wrong; ``retry``: another attempt may go better, ``solo``: without mates."""

    job_id: UUID
    code: str
    message: str
    retry: bool
    solo: bool = False


@dataclass(frozen=True)
class Released:
    """The worker gives the job back untouched: the attempt does not count.

    ``code`` and ``message`` tell who polls why it is queued again, where there is more to say
    than that the worker was stopped. One that is to be paused is not queued: it waits for its
    resumption.
    """

    job_id: UUID
    code: str | None = None
    message: str = ""


@dataclass(frozen=True)
class Yielded:
    """The job makes way, to go on later: as `Released`, but nothing is wrong with its worker."""

    job_id: UUID


@dataclass(frozen=True)
class Reused:
    """What another job of the tenant has made will do: refer to that.

    If it is not there any more, or was not made after all, the job goes back untouched.
    """

    job_id: UUID
    from_job_id: UUID


@dataclass(frozen=True)
class Deferred:
    """The worker gives the job back untouched, not to be claimed for a while.

    Another one is just making what it asks for.
    """

    job_id: UUID
    wait_s: float


Outcome = Succeeded | Failed | Released | Yielded | Reused | Deferred


@dataclass(frozen=True)
class _Change:
    status: JobStatus
    attempts: int
    error: Failed | Released | None = None
    wait_s: float | None = None  # of one that waits; None: until it is resumed


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
        held = connection.execute(_LOCK, {"claim_id": claim_id, "ids": list(by_job)}).all()
        changes = {row.id: _change(row, by_job[row.id]) for row in held}
        _register(connection, held, by_job, changes)
        reused = _reuse(connection, claim_id, held, by_job, changes)
        locked = needs.lock(connection, [row.id for row in held if row.is_needed])
        needed = _record(connection, claim_id, changes, _artifacts(changes, by_job) + reused)
        if needed:
            # Whatever has been submitted since the jobs were locked: no lock may be waited for now.
            late = needed - {row.id for row in held if row.is_needed}
            locked += needs.lock(connection, late, wait=False)
            moves = counters.moves(needs.follow(connection, needed, locked))
            counters.add(connection, claim_id, moves, following=True)
        left = {job_id: change.status for job_id, change in changes.items()}
        left |= _done_before(connection, claim_id, by_job.keys() - changes.keys())
        if any(
            left.get(outcome.job_id) is not JobStatus.SUCCEEDED
            for outcome in outcomes
            if not isinstance(outcome, Reused | Deferred)
        ):
            # Whatever was uploaded for the others is nobody's. (Asked of each outcome, what a
            # worker may have uploaded before it failed, was stopped or was cancelled is a guess.
            # Only of jobs that were not begun there is nothing.)
            orphans.note(connection, claim_id)
    return left


_LOCK = text(
    """
    WITH claim AS MATERIALIZED (
        -- Before the jobs, as whoever takes an expired lease does, and whose it is.
        SELECT id FROM claims WHERE id = :claim_id FOR UPDATE
    )
    SELECT jobs.id, tenant_id, attempts, max_attempts, cancel_requested, pause_requested,
           EXISTS (SELECT FROM job_needs WHERE need_id = jobs.id) AS is_needed
    FROM claim JOIN jobs ON jobs.claim_id = claim.id
    WHERE jobs.id = ANY(:ids) AND status = 'running'
    ORDER BY jobs.id FOR UPDATE OF jobs
    """
)


def _change(job: Row[Any], outcome: Outcome) -> _Change:
    """What an outcome means for a running job."""
    if job.cancel_requested:
        # Cancel was committed before this finish: it wins, and the output stays unreferenced.
        return _Change(JobStatus.CANCELLED, job.attempts)
    change = _meant(job, outcome)
    if job.pause_requested and change.status not in FINAL:
        return replace(change, status=JobStatus.WAITING, wait_s=None)
    return change


def _meant(job: Row[Any], outcome: Outcome) -> _Change:
    match outcome:
        case Succeeded():
            return _Change(JobStatus.SUCCEEDED, job.attempts)
        case Released() | Yielded() | Reused():
            # The last for as long as what it refers to has not been found, see `_reuse`.
            says = outcome if isinstance(outcome, Released) and outcome.code else None
            return _Change(JobStatus.QUEUED, job.attempts - 1, says)
        case Deferred():
            return _Change(JobStatus.WAITING, job.attempts - 1, wait_s=outcome.wait_s)
        case Failed(retry=True) if job.attempts < job.max_attempts:
            return _Change(JobStatus.WAITING, job.attempts, outcome, backoff_s(job.attempts))
        case Failed():
            return _Change(JobStatus.FAILED, job.attempts, outcome)


def _register(
    connection: Connection,
    held: Sequence[Row[Any]],
    outcomes: Mapping[UUID, Outcome],
    changes: dict[UUID, _Change],
) -> None:
    """Register what the jobs that succeed have made; those whose name is taken have failed."""
    made = [
        (outcome.registers, row)
        for row in held
        if changes[row.id].status is JobStatus.SUCCEEDED
        and isinstance(outcome := outcomes[row.id], Succeeded)
        and outcome.registers
    ]
    # In the order of their names: whoever registers the same waits, and must not hold one of ours.
    for card, row in sorted(made, key=lambda each: each[0].name):
        assert card.tenant_id == row.tenant_id, "what a job makes is its tenant's"
        if not models.register(connection, card):
            message = f"there is a model {card.name!r} by now: submit it again with another name"
            failed = Failed(row.id, "name_taken", message, retry=False)
            changes[row.id] = _Change(JobStatus.FAILED, row.attempts, failed)


def backoff_s(attempts: int) -> float:
    """Seconds before the next attempt: doubling, and spread so that mates do not come together."""
    ceiling = min(BACKOFF_FIRST_S * 2.0 ** (attempts - 1), BACKOFF_MOST_S)
    return ceiling * random.uniform(0.5, 1.0)  # noqa: S311 (spreading load, not a secret)


def _record(
    connection: Connection,
    claim_id: UUID,
    changes: Mapping[UUID, _Change],
    artifacts: Sequence[Mapping[str, Any]],
) -> set[UUID]:
    """Write it all down in one statement: jobs, artifacts, progress, and that the claim is over.

    Gives the jobs that have ended and that others need.
    """
    moved = connection.execute(
        _RECORD,
        {
            "claim_id": claim_id,
            "before": JobStatus.RUNNING,
            "slot": counters.slot(claim_id),
            "backoff": WaitReason.BACKOFF,
            "pause": WaitReason.PAUSE,
            "changes": json.dumps([_as_json(*change) for change in changes.items()]),
            "artifacts": json.dumps(artifacts, default=dict),
        },
    ).all()
    moved_ids = {row.id for row in moved}
    assert moved_ids == set(changes), "rows that we hold locked cannot have changed"
    return {row.id for row in moved if row.is_needed and row.status in FINAL}


def _artifacts(
    changes: Mapping[UUID, _Change], outcomes: Mapping[UUID, Outcome]
) -> list[dict[str, Any]]:
    """What was made for the jobs that succeed."""
    return [
        {"job_id": str(job_id), "index": index, **vars(artifact)}
        for job_id, change in changes.items()
        if change.status is JobStatus.SUCCEEDED
        and isinstance(outcome := outcomes[job_id], Succeeded)
        for index, artifact in enumerate(outcome.artifacts)
    ]


def _reuse(
    connection: Connection,
    claim_id: UUID,
    held: Sequence[Row[Any]],
    outcomes: Mapping[UUID, Outcome],
    changes: dict[UUID, _Change],
) -> list[dict[str, Any]]:
    """Have the jobs succeed that can refer to what others made, and give their artifacts."""
    wanted = [
        (row, outcome.from_job_id)
        for row in held
        if isinstance(outcome := outcomes[row.id], Reused) and not row.cancel_requested
    ]
    if not wanted:
        return []
    tenants = {row.id: row.tenant_id for row in held}
    # Some may be their mates, made by this very claim.
    found: dict[tuple[UUID, UUID], list[dict[str, Any]]] = {}
    for made in _artifacts(changes, outcomes):
        job_id = UUID(made["job_id"])
        found.setdefault((tenants[job_id], job_id), []).append({"claim_id": str(claim_id), **made})
    others = {from_job_id for _, from_job_id in wanted} - changes.keys()
    for row in makings.made(connection, others):
        found.setdefault((row.tenant_id, row.job_id), []).append(
            {
                "claim_id": str(row.claim_id),
                "index": row.index,
                "object_key": row.object_key,
                "media_type": row.media_type,
                "sha256": row.sha256,
                "size_bytes": row.size_bytes,
                "facts": row.facts,
            }
        )
    artifacts = []
    for row, from_job_id in wanted:
        made_there = found.get((row.tenant_id, from_job_id), [])
        if made_there:
            changes[row.id] = _Change(JobStatus.SUCCEEDED, row.attempts)
        artifacts += [
            {
                **made,
                "job_id": str(row.id),
                "facts": {**made["facts"], "reused_from": str(from_job_id)},
            }
            for made in made_there
        ]
    return artifacts


def _as_json(job_id: UUID, change: _Change) -> dict[str, Any]:
    error = change.error
    return {
        "id": str(job_id),
        "status": change.status,
        "attempts": change.attempts,
        "wait_s": change.wait_s,
        "code": error and error.code,
        "message": error and _storable(error.message),
        "solo": isinstance(error, Failed) and error.solo,
    }


def _storable(message: str) -> str:
    # It may hold anything, and what PostgreSQL cannot hold must not keep the batch from ending.
    return message.replace("\0", "\ufffd").encode(errors="replace").decode()


_RECORD = text(
    f"""
    -- Rows come as one value each, whatever their number: a statement that is prepared once.
    WITH change AS (
        SELECT * FROM jsonb_to_recordset(CAST(:changes AS jsonb)) AS change (
            id uuid, status text, attempts smallint, wait_s double precision,
            code text, message text, solo boolean)
    ), moved AS (
        UPDATE jobs SET
            status = change.status,
            attempts = change.attempts,
            error = CASE WHEN change.code IS NOT NULL THEN
                jsonb_build_object('code', change.code, 'message', change.message) END,
            solo = jobs.solo OR change.solo,
            wait_reason = CASE WHEN change.status <> 'waiting' THEN NULL
                WHEN change.wait_s IS NULL THEN :pause ELSE :backoff END,
            available_at = CASE WHEN change.status = 'waiting' THEN coalesce(
                clock_timestamp() + make_interval(secs => change.wait_s), 'infinity') END,
            finished_at = CASE WHEN change.status IN ('succeeded', 'failed', 'cancelled')
                THEN clock_timestamp() END,
            -- Kept on final rows: it tells whose finish it was.
            claim_id = CASE WHEN change.status IN ('queued', 'waiting') THEN NULL
                ELSE claim_id END
        FROM change
        WHERE jobs.id = change.id AND jobs.claim_id = :claim_id AND jobs.status = 'running'
        RETURNING jobs.id, tenant_id, campaign_id, jobs.attempts, jobs.status
    ), made AS (
        INSERT INTO artifacts (tenant_id, campaign_id, job_id, claim_id, attempt, index,
                               object_key, media_type, sha256, size_bytes, facts)
        SELECT tenant_id, campaign_id, job_id, coalesce(made.claim_id, :claim_id), attempts, index,
               object_key, media_type, sha256, size_bytes, facts
        FROM jsonb_to_recordset(CAST(:artifacts AS jsonb)) AS made (
            job_id uuid, claim_id uuid, index smallint,
            object_key text, media_type text, sha256 text, size_bytes bigint, facts jsonb)
        JOIN moved ON moved.id = job_id
    ), counted AS ({counters.ADD_MOVED}), ended AS (
        DELETE FROM claims WHERE id = :claim_id AND NOT EXISTS (
            -- All of one statement see what was there before it.
            SELECT FROM jobs WHERE claim_id = :claim_id AND status = 'running'
                AND id NOT IN (SELECT id FROM moved)
        )
    )
    SELECT id, status, EXISTS (SELECT FROM job_needs WHERE need_id = moved.id) AS is_needed
    FROM moved
    """  # noqa: S608 (constants)
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
