"""How work comes back: expired leases, and jobs whose time of waiting is over."""

import time
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, Engine, text

from storage import counters, orphans
from storage.ledger import needs
from storage.lifecycle import FINAL, JobStatus

PROMOTED_AT_ONCE = 1000
HUNG_S = 5.0


@dataclass(frozen=True)
class Recovered:
    """A claim whose lease had expired, and where its jobs went."""

    claim_id: UUID
    worker: str
    jobs: int


def recover_claim(engine: Engine, *, connected_s: float = float("inf")) -> Recovered | None:
    """Take the jobs of one claim whose lease expired from it; None: there is no such claim.

    They go back to the queue marked ``solo``, so that one of them that kills its process does
    not take the others down again; to ``failed`` if that was the last attempt; to ``cancelled``
    if that was asked for; those to be paused wait for their resumption. The late worker's writes
    are refused from here on.

    While the database was away nobody could renew. So a lease is only taken once the server has
    been up, and the caller has been connected (``connected_s`` seconds), for the lease's length;
    and not by a question that has hung, for which all renewals may have waited as well.
    """
    asked_at = time.monotonic()
    with engine.begin() as connection:
        row = connection.execute(
            text(
                """
                SELECT id, worker FROM claims
                WHERE lease_until < clock_timestamp() AND lease_s < :connected_s
                  AND pg_postmaster_start_time() + make_interval(secs => lease_s)
                      < clock_timestamp()
                ORDER BY lease_until LIMIT 1 FOR UPDATE SKIP LOCKED
                """
            ),
            {"connected_s": connected_s},
        ).first()
        if row is None or time.monotonic() - asked_at > HUNG_S:
            return None
        jobs = _take_back(connection, row.id)
        connection.execute(text("DELETE FROM claims WHERE id = :id"), {"id": row.id})
        orphans.note(connection, row.id)
        return Recovered(row.id, row.worker, jobs)


def _take_back(connection: Connection, claim_id: UUID) -> int:
    rows = connection.execute(
        text(
            """
            WITH held AS (
                SELECT id, CASE WHEN cancel_requested THEN 'cancelled'
                                WHEN attempts >= max_attempts THEN 'failed'
                                WHEN pause_requested THEN 'waiting'
                                ELSE 'queued' END AS next
                FROM jobs WHERE claim_id = :claim_id AND status = 'running'
                ORDER BY id FOR UPDATE
            )
            UPDATE jobs SET
                status = next,
                solo = true,
                claim_id = NULL,
                wait_reason = CASE WHEN next = 'waiting' THEN 'pause' END,
                available_at = CASE WHEN next = 'waiting' THEN
                    CAST('infinity' AS timestamptz) END,
                finished_at = CASE WHEN next IN ('cancelled', 'failed')
                    THEN clock_timestamp() END,
                error = CASE WHEN next = 'failed' THEN jsonb_build_object(
                    'code', 'lease_expired',
                    'message', 'the worker stopped answering during the last attempt') END
            FROM held WHERE jobs.id = held.id AND jobs.status = 'running'
            RETURNING jobs.id, jobs.campaign_id, jobs.status
            """
        ),
        {"claim_id": claim_id},
    ).all()
    moves = [(row.campaign_id, JobStatus.RUNNING, JobStatus(row.status)) for row in rows]
    ended = [row.id for row in rows if row.status in FINAL]
    moves += needs.follow(connection, ended, needs.lock(connection, ended))
    counters.add(connection, claim_id, counters.moves(moves))
    return len(rows)


def promote(engine: Engine) -> int:
    """Queue a chunk of the waiting jobs whose time has come; how many."""
    with engine.begin() as connection:
        rows = connection.execute(
            text(
                """
                WITH due AS (
                    SELECT id FROM jobs
                    WHERE status = 'waiting' AND available_at <= clock_timestamp()
                    ORDER BY available_at LIMIT :most FOR UPDATE SKIP LOCKED
                )
                UPDATE jobs SET status = 'queued', wait_reason = NULL, available_at = NULL
                FROM due WHERE jobs.id = due.id AND jobs.status = 'waiting'
                RETURNING jobs.id, jobs.campaign_id
                """
            ),
            {"most": PROMOTED_AT_ONCE},
        ).all()
        if rows:
            counters.add(
                connection,
                rows[0].id,
                counters.moves(
                    (row.campaign_id, JobStatus.WAITING, JobStatus.QUEUED) for row in rows
                ),
            )
        return len(rows)
