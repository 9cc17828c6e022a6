"""How a worker gets work and keeps its right to it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Engine, Row, text
from sqlalchemy.exc import OperationalError

from storage import counters
from storage.ledger import needs
from storage.ledger.backlog import CAMPAIGN_PRIORITY, Turn
from storage.lifecycle import FINAL, JobStatus

CANCEL_CHANNEL = "presswork_cancel"
"""NOTIFY with a claim's id: one of its jobs is to be cancelled, paused, or not paused after all."""

KEYS_LOOKED_AT = 8
"""How many turns a claim tries whose jobs are all being taken by others, before it gives up."""

LOOK_AGAIN_S = 5.0

MATES_LOOKED_AT = 64
"""Of how many tenants less urgent jobs may fill a batch."""

_NO_ID = UUID(int=0)

Behind = dict[tuple[str, UUID], UUID]
"""By batch key and tenant, the id up to which jobs are passed by: a cancelled campaign's last."""


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
    """A job this worker may run: with its own ``request``, or as part of a campaign.

    ``solo``: it may be what has killed a process before.
    """

    id: UUID
    tenant_id: UUID
    kind: str
    attempt: int
    request: dict[str, Any] | None
    part: CampaignPart | None
    solo: bool = False


@dataclass(frozen=True)
class Batch:
    """Jobs of one batch key under one lease. ``claim_id`` proves the right to finish them."""

    claim_id: UUID
    batch_key: str
    lease_s: float
    jobs: tuple[ClaimedJob, ...]

    @property
    def is_solo(self) -> bool:
        """Whether it may kill its process, and is to take no other claim down with it."""
        return any(job.solo for job in self.jobs)


@dataclass(frozen=True)
class Lease:
    """The answer to a heartbeat: whether the claim is still ours, and which jobs to stop.

    Those in ``paused`` are to be given back in such a way that they can go on later.
    """

    held: bool
    cancelled: frozenset[UUID]
    paused: frozenset[UUID] = frozenset()


def claim(
    engine: Engine,
    *,
    worker: str,
    size: Callable[[str], int],
    lease_s: float,
    turns: Callable[[Connection], Iterator[Turn]],
) -> Batch | None:
    """Take queued jobs of one batch key, up to its ``size``; None: nothing to do.

    ``turns`` says of which, the best first; it is asked within the claim's transaction, for as many
    as turn out to be taken by others at this moment, up to `KEYS_LOOKED_AT`.

    The attempt is counted here, before the device is touched, so that a job that kills its
    process runs out of attempts. A job marked ``solo`` (its lease expired before) comes alone.

    Jobs of a cancelled campaign that stand in the way are cancelled, a batch at most per key; the
    claim then looks behind the campaign's last job, however many the sweeper has yet to cancel.
    What was submitted in the very seconds in which that campaign was may have to wait for that.
    """
    behind: Behind = {}
    while True:
        claim_id = uuid4()
        try:
            with engine.begin() as connection:
                found = _claim(
                    connection,
                    claim_id,
                    worker=worker,
                    size=size,
                    lease_s=lease_s,
                    turns=islice(turns(connection), KEYS_LOOKED_AT),
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
    size: Callable[[str], int],
    lease_s: float,
    turns: Iterator[Turn],
    behind: Behind,
) -> Batch | None:
    """One attempt; a batch without jobs: what was found may not start; ``behind`` has moved on."""
    for turn in turns:
        taken = _take(
            connection,
            claim_id,
            worker=worker,
            turn=turn,
            size=size(turn.batch_key),
            lease_s=lease_s,
            behind=behind,
        )
        if not taken:
            continue
        ended = [job.id for job in taken if job.status in FINAL]
        if ended:
            moves = needs.follow(connection, ended, needs.lock(connection, ended, wait=False))
            counters.add(connection, claim_id, counters.moves(moves), following=True)
        batch = _batch(claim_id, turn.batch_key, lease_s, taken)
        if not batch.jobs:
            # Commit, and look again: two that go on with counters locked could deadlock. (All of
            # them belong to campaigns: nothing keeps other jobs from running.)
            for tenant_id in {job.tenant_id for job in taken}:
                campaigns = {job.campaign_id for job in taken if job.tenant_id == tenant_id}
                behind[turn.batch_key, tenant_id] = _last_job(connection, campaigns)
        return batch
    return None


def _take(
    connection: Connection,
    claim_id: UUID,
    *,
    worker: str,
    turn: Turn,
    size: int,
    lease_s: float,
    behind: Behind,
) -> Sequence[Row[Any]]:
    """What became of the jobs at the head of a turn, counted and with a claim for those that run.

    They run, or are cancelled with their campaign; those of one whose run window has ended wait
    for the next one, or expire.
    """
    passed = [behind.get((turn.batch_key, tenant_id), _NO_ID) for tenant_id in turn.tenants]
    return connection.execute(
        _TAKE,
        {
            "claim_id": claim_id,
            "worker": worker,
            "pool": turn.pool,
            "batch_key": turn.batch_key,
            "priority": turn.priority,
            "size": size,
            "tenants": list(turn.tenants),
            # Only a campaign's jobs are passed by, and those have one priority.
            "passed": passed if turn.priority == CAMPAIGN_PRIORITY else [_NO_ID] * len(passed),
            "goes_round": any(passed != _NO_ID for passed in passed),
            "urgent": [each.campaign_id for each in turn.urgent],
            "urgent_tenants": [each.tenant_id for each in turn.urgent],
            "urgent_first": [each.first_id for each in turn.urgent],
            "urgent_last": [each.last_id for each in turn.urgent],
            "lease_s": lease_s,
            "look_again_s": LOOK_AGAIN_S,
            "before": JobStatus.QUEUED,
            "slot": counters.slot(claim_id),
        },
    ).all()


_COLUMNS = """
    jobs.id, jobs.tenant_id, jobs.campaign_id, jobs.status, jobs.kind, jobs.attempts, jobs.solo,
    jobs.request, jobs.creative_id, creatives.name, creatives.parameters, recipients.key,
    recipients.data
"""
_PARTS = """
    LEFT JOIN creatives ON creatives.id = jobs.creative_id
    LEFT JOIN recipients ON recipients.id = jobs.recipient_id
"""

_TAKE = text(
    f"""
    -- Each tenant's jobs are a range of the index, and as many ranges are read as fill the batch.
    WITH urgent AS MATERIALIZED (
        SELECT job.*, 0 AS part, place FROM unnest(
            CAST(:urgent AS uuid[]), CAST(:urgent_tenants AS uuid[]),
            CAST(:urgent_first AS uuid[]), CAST(:urgent_last AS uuid[])
        ) WITH ORDINALITY AS near (campaign_id, tenant_id, first_id, last_id, place)
        CROSS JOIN LATERAL (
            SELECT id, priority, solo, jobs.campaign_id FROM jobs
            WHERE pool = :pool AND priority = {CAMPAIGN_PRIORITY}
              AND jobs.tenant_id = near.tenant_id AND batch_key = :batch_key
              AND status = 'queued' AND id BETWEEN first_id AND last_id
              -- Not by the index of a campaign's jobs: it holds those that are done as well.
              AND jobs.campaign_id IS NOT DISTINCT FROM near.campaign_id
            ORDER BY id LIMIT :size
            FOR UPDATE SKIP LOCKED
        ) AS job LIMIT :size
    ), shared AS MATERIALIZED (
        SELECT job.*, 1 AS part, place
        FROM unnest(CAST(:tenants AS uuid[]), CAST(:passed AS uuid[]))
            WITH ORDINALITY AS mates (tenant_id, passed_id, place)
        CROSS JOIN LATERAL (
            SELECT id, priority, solo, campaign_id FROM jobs
            WHERE pool = :pool AND priority = :priority AND jobs.tenant_id = mates.tenant_id
              AND batch_key = :batch_key AND status = 'queued' AND id > passed_id
              AND (campaign_id IS NULL OR campaign_id <> ALL(CAST(:urgent AS uuid[])))
            ORDER BY id LIMIT :size
            FOR UPDATE SKIP LOCKED
        ) AS job LIMIT :size - (SELECT count(*) FROM urgent)
    ), first AS (SELECT * FROM urgent UNION ALL SELECT * FROM shared), filling AS MATERIALIZED (
        SELECT job.*, 2 AS part, place
        FROM unnest(CAST(:tenants AS uuid[])) WITH ORDINALITY AS mates (tenant_id, place)
        CROSS JOIN LATERAL (
            SELECT id, priority, solo, campaign_id FROM jobs
            WHERE pool = :pool AND priority > :priority AND jobs.tenant_id = mates.tenant_id
              AND batch_key = :batch_key AND status = 'queued'
            ORDER BY priority, id LIMIT :size
            FOR UPDATE SKIP LOCKED
        ) AS job
        WHERE place <= {MATES_LOOKED_AT} AND (:goes_round OR EXISTS (SELECT FROM first))
        LIMIT :size - (SELECT count(*) FROM first)
    ), ranked AS (
        SELECT id, campaign_id, solo, row_number() OVER w AS rank,
               first_value(solo) OVER w AS first_is_solo
        FROM (SELECT * FROM first UNION ALL SELECT * FROM filling) AS head
        WINDOW w AS (ORDER BY part, place, priority, id)
    ), taken AS MATERIALIZED (
        SELECT ranked.id, campaigns.reopens_at, CASE
            WHEN campaigns.cancelled_at IS NOT NULL THEN 'cancelled'
            WHEN campaigns.closes_at <= clock_timestamp() THEN
                CASE WHEN campaigns.reopens_at IS NULL THEN 'expired' ELSE 'waiting' END
            ELSE 'running' END AS next
        FROM ranked LEFT JOIN campaigns ON campaigns.id = ranked.campaign_id
        WHERE rank = 1 OR NOT (solo OR first_is_solo)
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
            solo=row.solo,
        )
        for row in rows
        if row.status == JobStatus.RUNNING
    )
    return Batch(claim_id, batch_key, lease_s, jobs)


def renew(engine: Engine, claim_id: UUID) -> Lease:
    """Heartbeat: extend the lease on the database's clock, and learn what to stop.

    One that is just being finished, or taken, is left as it is: the heartbeat has others to renew,
    and must not wait for it.
    """
    with engine.begin() as connection:
        # First: what it may have to wait for must not use up the lease that it is about to extend.
        flagged = connection.execute(
            text(
                """
                SELECT id, cancel_requested, pause_requested FROM jobs
                WHERE claim_id = :id AND status = 'running'
                  AND (cancel_requested OR pause_requested)
                """
            ),
            {"id": claim_id},
        ).all()
        held = connection.execute(
            text(
                """
                WITH free AS MATERIALIZED (
                    SELECT id FROM claims WHERE id = :id FOR NO KEY UPDATE SKIP LOCKED
                ), renewed AS (
                    UPDATE claims
                    SET lease_until = clock_timestamp() + make_interval(secs => lease_s)
                    FROM free WHERE claims.id = free.id
                )
                SELECT EXISTS (SELECT FROM claims WHERE id = :id)
                """
            ),
            {"id": claim_id},
        ).scalar_one()
        return Lease(
            bool(held),
            cancelled=frozenset(row.id for row in flagged if row.cancel_requested),
            paused=frozenset(row.id for row in flagged if row.pause_requested),
        )
