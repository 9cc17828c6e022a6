"""How a worker gets work and keeps its right to it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

from storage import counters
from storage.lifecycle import JobStatus

CANCEL_CHANNEL = "presswork_cancel"
"""NOTIFY with a claim's id: one of its jobs is to be cancelled."""

KEYS_LOOKED_AT = 8


@dataclass(frozen=True)
class CampaignPart:
    """What a campaign's job is made of; its request is rendered from this at claim."""

    creative_id: UUID
    creative: str
    parameters: dict[str, Any]
    recipient_key: str
    row: dict[str, Any]


@dataclass(frozen=True)
class ClaimedJob:
    """A job this worker may run: with its own ``request``, or as part of a campaign."""

    id: UUID
    kind: str
    attempt: int
    request: dict[str, Any] | None
    part: CampaignPart | None


@dataclass(frozen=True)
class Batch:
    """Jobs of one batch key under one lease. ``claim_id`` proves the right to finish them."""

    claim_id: UUID
    batch_key: str
    lease_s: float
    jobs: tuple[ClaimedJob, ...]


@dataclass(frozen=True)
class Lease:
    """The answer to a heartbeat: whether the claim is still ours, and which jobs to stop."""

    held: bool
    cancelled: frozenset[UUID]


def claim(
    engine: Engine,
    *,
    worker: str,
    pool: str,
    size: int,
    lease_s: float,
    prefer: str | None = None,
    after: str | None = None,
) -> Batch | None:
    """Take up to ``size`` queued jobs of one batch key; None: nothing to do.

    ``prefer`` is the key to stay on, without a look at the others. Otherwise the key whose head
    has the best priority is taken, then the oldest head; or in turn the key behind ``after``.

    The attempt is counted here, before the device is touched, so that a job that kills its
    process runs out of attempts. A job marked ``solo`` (its lease expired before) comes alone.
    """
    while True:
        claim_id = uuid4()
        try:
            with engine.begin() as connection:
                found = _claim(
                    connection,
                    claim_id,
                    worker=worker,
                    pool=pool,
                    size=size,
                    lease_s=lease_s,
                    prefer=prefer,
                    after=after,
                )
        except OperationalError:
            # The commit may have happened although its answer was lost. The id is ours, so look.
            with engine.begin() as connection:
                return _read(connection, claim_id)
        if found is None:
            return None
        if found.jobs:
            return found


def _claim(
    connection: Connection,
    claim_id: UUID,
    *,
    worker: str,
    pool: str,
    size: int,
    lease_s: float,
    prefer: str | None,
    after: str | None,
) -> Batch | None:
    """One attempt; a batch without jobs: all that was found there has been cancelled instead."""
    for batch_key in _keys(connection, pool, prefer, after):
        taken = _take(connection, claim_id, pool=pool, batch_key=batch_key, size=size)
        if JobStatus.RUNNING in taken:
            _insert_claim(connection, claim_id, worker, batch_key, lease_s)
            return _read(connection, claim_id)
        if taken:
            return Batch(claim_id, batch_key, lease_s, jobs=())
    return None


def _keys(
    connection: Connection, pool: str, prefer: str | None, after: str | None
) -> Iterator[str]:
    """The batch keys to try, best first."""
    if prefer is not None:
        yield prefer
    keys = connection.execute(
        text(
            """
            -- A skip scan: one probe of the index per key, however many jobs a key has.
            WITH RECURSIVE heads AS (
                (SELECT batch_key, priority, id FROM jobs
                 WHERE pool = :pool AND status = 'queued'
                 ORDER BY batch_key, priority, id LIMIT 1)
                UNION ALL
                SELECT next.batch_key, next.priority, next.id
                FROM heads CROSS JOIN LATERAL (
                    SELECT batch_key, priority, id FROM jobs
                    WHERE pool = :pool AND status = 'queued' AND batch_key > heads.batch_key
                    ORDER BY batch_key, priority, id LIMIT 1
                ) AS next
            )
            SELECT batch_key FROM heads
            ORDER BY priority, batch_key <= :after,
                     CASE WHEN CAST(:after AS text) IS NOT NULL THEN batch_key END, id
            LIMIT :looked_at
            """
        ),
        {"pool": pool, "after": after, "looked_at": KEYS_LOOKED_AT},
    )
    yield from keys.scalars()


def _take(
    connection: Connection, claim_id: UUID, *, pool: str, batch_key: str, size: int
) -> list[JobStatus]:
    """What became of the jobs at the head of a key: running, or cancelled with their campaign."""
    rows = connection.execute(
        text(
            """
            WITH head AS MATERIALIZED (
                SELECT id, priority, solo, campaign_id FROM jobs
                WHERE pool = :pool AND batch_key = :batch_key AND status = 'queued'
                ORDER BY priority, id LIMIT :size
                FOR UPDATE SKIP LOCKED
            ), ranked AS (
                SELECT id, campaign_id, solo, row_number() OVER w AS place,
                       first_value(solo) OVER w AS first_is_solo
                FROM head WINDOW w AS (ORDER BY priority, id)
            ), taken AS (
                SELECT ranked.id, campaigns.cancelled_at IS NOT NULL AS dropped
                FROM ranked LEFT JOIN campaigns ON campaigns.id = ranked.campaign_id
                WHERE place = 1 OR NOT (solo OR first_is_solo)
            )
            UPDATE jobs SET
                status = CASE WHEN dropped THEN 'cancelled' ELSE 'running' END,
                finished_at = CASE WHEN dropped THEN clock_timestamp() END,
                claim_id = CASE WHEN dropped THEN claim_id ELSE :claim_id END,
                attempts = attempts + CASE WHEN dropped THEN 0 ELSE 1 END
            FROM taken WHERE jobs.id = taken.id AND jobs.status = 'queued'
            RETURNING jobs.campaign_id, jobs.status
            """
        ),
        {"pool": pool, "batch_key": batch_key, "size": size, "claim_id": claim_id},
    ).all()
    counters.add(
        connection,
        claim_id,
        counters.moves((row.campaign_id, JobStatus.QUEUED, JobStatus(row.status)) for row in rows),
    )
    return [JobStatus(row.status) for row in rows]


def _insert_claim(
    connection: Connection, claim_id: UUID, worker: str, batch_key: str, lease_s: float
) -> None:
    connection.execute(
        text(
            """
            INSERT INTO claims (id, worker, batch_key, lease_s, lease_until)
            VALUES (:id, :worker, :batch_key, :lease_s,
                    clock_timestamp() + make_interval(secs => :lease_s))
            """
        ),
        {"id": claim_id, "worker": worker, "batch_key": batch_key, "lease_s": lease_s},
    )


def _read(connection: Connection, claim_id: UUID) -> Batch | None:
    rows = connection.execute(
        text(
            """
            SELECT jobs.id, jobs.kind, jobs.attempts, jobs.request, jobs.creative_id,
                   claims.batch_key, claims.lease_s,
                   creatives.name, creatives.parameters, recipients.key, recipients.data
            FROM claims
            JOIN jobs ON jobs.claim_id = claims.id AND jobs.status = 'running'
            LEFT JOIN creatives ON creatives.id = jobs.creative_id
            LEFT JOIN recipients ON recipients.id = jobs.recipient_id
            WHERE claims.id = :id ORDER BY jobs.priority, jobs.id
            """
        ),
        {"id": claim_id},
    ).all()
    if not rows:
        return None
    jobs = tuple(
        ClaimedJob(
            id=row.id,
            kind=row.kind,
            attempt=row.attempts,
            request=row.request,
            part=None
            if row.request is not None
            else CampaignPart(row.creative_id, row.name, row.parameters, row.key, row.data),
        )
        for row in rows
    )
    return Batch(claim_id, rows[0].batch_key, rows[0].lease_s, jobs)


def renew(engine: Engine, claim_id: UUID) -> Lease:
    """Heartbeat: extend the lease on the database's clock, and learn what was cancelled."""
    with engine.begin() as connection:
        held = connection.execute(
            text(
                """
                UPDATE claims SET lease_until = clock_timestamp() + make_interval(secs => lease_s)
                WHERE id = :id
                """
            ),
            {"id": claim_id},
        ).rowcount
        cancelled = connection.execute(
            text(
                """
                SELECT id FROM jobs
                WHERE claim_id = :id AND status = 'running' AND cancel_requested
                """
            ),
            {"id": claim_id},
        ).scalars()
        return Lease(bool(held), frozenset(cancelled))


def queued_pools(engine: Engine) -> list[tuple[str, int]]:
    """The pools that have queued work, with how many workers were seen lately in each."""
    with engine.begin() as connection:
        rows = connection.execute(
            text(
                """
                WITH RECURSIVE pools AS (
                    (SELECT pool FROM jobs WHERE status = 'queued' ORDER BY pool LIMIT 1)
                    UNION ALL
                    SELECT next.pool FROM pools CROSS JOIN LATERAL (
                        SELECT pool FROM jobs WHERE status = 'queued' AND pool > pools.pool
                        ORDER BY pool LIMIT 1
                    ) AS next
                )
                SELECT pool, (
                    SELECT count(*) FROM workers
                    WHERE workers.pool = pools.pool
                      AND seen_at > clock_timestamp() - interval '1 minute'
                ) AS workers FROM pools
                """
            )
        ).all()
    return [(row.pool, row.workers) for row in rows]
