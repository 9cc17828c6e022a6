"""How a worker gets work and keeps its right to it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Engine, Row, text
from sqlalchemy.exc import OperationalError

from storage import counters
from storage.ledger import needs
from storage.lifecycle import FINAL, JobStatus

CANCEL_CHANNEL = "presswork_cancel"
"""NOTIFY with a claim's id: one of its jobs is to be cancelled."""

KEYS_LOOKED_AT = 8
"""How many keys a claim tries whose jobs are all being taken by others, before it gives up."""

LOOK_AGAIN_S = 5.0

CAMPAIGN_PRIORITY = 0
"""The column's default, which the jobs of campaigns have."""

_NO_ID = UUID(int=0)
_NOTHING = (-(2**15), _NO_ID)
_FIRST = (-(2**15), "")


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
    tenant_id: UUID
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

    ``prefer`` is the key to stay on, without a look at the others. Otherwise, or when that has
    nothing left, the keys that have a job of the best priority take turns: the next one behind
    ``after`` or ``prefer`` is taken, or behind a random point, so that idle workers spread out.

    The attempt is counted here, before the device is touched, so that a job that kills its
    process runs out of attempts. A job marked ``solo`` (its lease expired before) comes alone.

    Jobs of a cancelled campaign that stand in the way are cancelled, ``size`` at most per key; the
    claim then looks behind the campaign's last job, however many the sweeper has yet to cancel.
    What was submitted in the very seconds in which that campaign was may have to wait for that.
    """
    behind: dict[str, tuple[int, UUID]] = {}
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
                    keys=_keys(connection, pool, prefer, after or prefer or claim_id.hex),
                    behind=behind,
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
    keys: Iterator[str],
    behind: dict[str, tuple[int, UUID]],
) -> Batch | None:
    """One attempt; a batch without jobs: what was found may not start; ``behind`` has moved on."""
    for batch_key in keys:
        taken = _take(
            connection,
            claim_id,
            worker=worker,
            pool=pool,
            batch_key=batch_key,
            size=size,
            lease_s=lease_s,
            behind=behind.get(batch_key, _NOTHING),
        )
        if not taken:
            continue
        ended = [job.id for job in taken if job.status in FINAL]
        if ended:
            moves = needs.follow(connection, ended, needs.lock(connection, ended, wait=False))
            counters.add(connection, claim_id, counters.moves(moves), following=True)
        batch = _batch(claim_id, batch_key, lease_s, taken)
        if not batch.jobs:
            # Commit, and look again: two that go on with counters locked could deadlock. (All of
            # them belong to campaigns: nothing keeps other jobs from running.)
            last = _last_job(connection, {job.campaign_id for job in taken})
            behind[batch_key] = (CAMPAIGN_PRIORITY, last)
        return batch
    return None


def _keys(connection: Connection, pool: str, prefer: str | None, after: str) -> Iterator[str]:
    """The batch keys to try, best first: looked up one by one, as they are asked for."""
    tried = set()
    if prefer is not None:
        tried.add(prefer)
        yield prefer
    best = _next_head(connection, pool, _FIRST)
    if best is None:
        return
    head: tuple[int, str] | None = (best[0], after)
    in_turn = True
    while head and len(tried) < KEYS_LOOKED_AT:
        head = _next_head(connection, pool, head)
        if in_turn and (head is None or head[0] != best[0]):
            # Behind the last key comes the first; behind all of them, those of lower priority.
            head, in_turn = best, False
        if head and head[1] not in tried:
            tried.add(head[1])
            yield head[1]


def _next_head(
    connection: Connection, pool: str, behind: tuple[int, str]
) -> tuple[int, str] | None:
    """The next priority and batch key that have a queued job: one probe of the index."""
    row = connection.execute(
        text(
            """
            SELECT priority, batch_key FROM jobs
            WHERE pool = :pool AND status = 'queued'
              AND (priority, batch_key) > (:priority, :batch_key)
            ORDER BY priority, batch_key LIMIT 1
            """
        ),
        {"pool": pool, "priority": behind[0], "batch_key": behind[1]},
    ).first()
    return (row.priority, row.batch_key) if row else None


def _take(
    connection: Connection,
    claim_id: UUID,
    *,
    worker: str,
    pool: str,
    batch_key: str,
    size: int,
    lease_s: float,
    behind: tuple[int, UUID],
) -> Sequence[Row[Any]]:
    """What became of the jobs at the head of a key, counted and with a claim for those that run.

    They run, or are cancelled with their campaign; those of one whose run window has ended wait
    for the next one, or expire.
    """
    return connection.execute(
        _TAKE,
        {
            "claim_id": claim_id,
            "worker": worker,
            "pool": pool,
            "batch_key": batch_key,
            "size": size,
            "lease_s": lease_s,
            "behind_priority": behind[0],
            "behind_id": behind[1],
            "look_again_s": LOOK_AGAIN_S,
            "before": JobStatus.QUEUED,
            "slot": counters.slot(claim_id),
        },
    ).all()


_COLUMNS = """
    jobs.id, jobs.tenant_id, jobs.campaign_id, jobs.status, jobs.kind, jobs.attempts, jobs.request,
    jobs.creative_id, creatives.name, creatives.parameters, recipients.key, recipients.data
"""
_PARTS = """
    LEFT JOIN creatives ON creatives.id = jobs.creative_id
    LEFT JOIN recipients ON recipients.id = jobs.recipient_id
"""

_TAKE = text(
    f"""
    WITH head AS MATERIALIZED (
        SELECT id, priority, solo, campaign_id FROM jobs
        WHERE pool = :pool AND batch_key = :batch_key AND status = 'queued'
          AND (priority, id) > (:behind_priority, :behind_id)
        ORDER BY priority, id LIMIT :size
        FOR UPDATE SKIP LOCKED
    ), ranked AS (
        SELECT id, campaign_id, solo, row_number() OVER w AS place,
               first_value(solo) OVER w AS first_is_solo
        FROM head WINDOW w AS (ORDER BY priority, id)
    ), taken AS MATERIALIZED (
        SELECT ranked.id, campaigns.reopens_at, CASE
            WHEN campaigns.cancelled_at IS NOT NULL THEN 'cancelled'
            WHEN campaigns.closes_at <= clock_timestamp() THEN
                CASE WHEN campaigns.reopens_at IS NULL THEN 'expired' ELSE 'waiting' END
            ELSE 'running' END AS next
        FROM ranked LEFT JOIN campaigns ON campaigns.id = ranked.campaign_id
        WHERE place = 1 OR NOT (solo OR first_is_solo)
    ), moved AS (
        UPDATE jobs SET
            status = next,
            finished_at = CASE WHEN next IN ('cancelled', 'expired')
                THEN clock_timestamp() END,
            wait_reason = CASE WHEN next = 'waiting' THEN 'window' END,
            -- A window that should be open but is not set yet: look again soon, not at once.
            available_at = CASE WHEN next = 'waiting' THEN
                greatest(reopens_at, clock_timestamp() + make_interval(secs => :look_again_s))
                END,
            claim_id = CASE WHEN next = 'running' THEN :claim_id ELSE claim_id END,
            attempts = attempts + CASE WHEN next = 'running' THEN 1 ELSE 0 END
        FROM taken WHERE jobs.id = taken.id AND jobs.status = 'queued'
        RETURNING jobs.*
    ), counted AS ({counters.ADD_MOVED}), claimed AS (
        INSERT INTO claims (id, worker, batch_key, lease_s, lease_until)
        SELECT :claim_id, :worker, :batch_key, :lease_s,
               clock_timestamp() + make_interval(secs => :lease_s)
        WHERE EXISTS (SELECT FROM moved WHERE status = 'running')
    )
    SELECT {_COLUMNS} FROM moved AS jobs {_PARTS} ORDER BY jobs.priority, jobs.id
    """  # noqa: S608 (constants)
)


def _last_job(connection: Connection, campaigns: Iterable[UUID]) -> UUID:
    """The last job of several campaigns: a probe of an index for each."""
    last = _NO_ID
    for campaign in campaigns:
        last = max(
            last,
            connection.execute(
                text("SELECT id FROM jobs WHERE campaign_id = :id ORDER BY id DESC LIMIT 1"),
                {"id": campaign},
            ).scalar_one(),
        )
    return last


def _read(connection: Connection, claim_id: UUID) -> Batch | None:
    """What this claim holds already."""
    rows = connection.execute(
        text(
            f"""
            SELECT claims.batch_key, claims.lease_s, {_COLUMNS}
            FROM claims JOIN jobs ON jobs.claim_id = claims.id AND jobs.status = 'running' {_PARTS}
            WHERE claims.id = :id ORDER BY jobs.priority, jobs.id
            """  # noqa: S608 (constants)
        ),
        {"id": claim_id},
    ).all()
    return _batch(claim_id, rows[0].batch_key, rows[0].lease_s, rows) if rows else None


def _batch(claim_id: UUID, batch_key: str, lease_s: float, rows: Sequence[Row[Any]]) -> Batch:
    jobs = tuple(
        ClaimedJob(
            id=row.id,
            tenant_id=row.tenant_id,
            kind=row.kind,
            attempt=row.attempts,
            request=row.request,
            part=None
            if row.request is not None
            else CampaignPart(row.creative_id, row.name, row.parameters, row.key, row.data),
        )
        for row in rows
        if row.status == JobStatus.RUNNING
    )
    return Batch(claim_id, batch_key, lease_s, jobs)


def renew(engine: Engine, claim_id: UUID) -> Lease:
    """Heartbeat: extend the lease on the database's clock, and learn what was cancelled."""
    with engine.begin() as connection:
        # First: what it may have to wait for must not use up the lease that it is about to extend.
        cancelled = connection.execute(
            text(
                """
                SELECT id FROM jobs
                WHERE claim_id = :id AND status = 'running' AND cancel_requested
                """
            ),
            {"id": claim_id},
        ).scalars()
        found = frozenset(cancelled)
        held = connection.execute(
            text(
                """
                UPDATE claims SET lease_until = clock_timestamp() + make_interval(secs => lease_s)
                WHERE id = :id
                """
            ),
            {"id": claim_id},
        ).rowcount
        return Lease(bool(held), found)


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
