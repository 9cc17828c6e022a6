"""How work is stopped, and how it is asked for again."""

from collections.abc import Iterator
from uuid import UUID

from sqlalchemy import Connection, Engine, text

from storage import counters
from storage.ledger import needs
from storage.ledger.claim import CANCEL_CHANNEL
from storage.lifecycle import CampaignStatus, JobStatus, campaign_status

RETRY_ATTEMPTS = 3
CHUNK = 2000


class WrongStateError(Exception):
    """The job's or campaign's status, given here, does not allow what was asked."""

    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = status


def cancel_job(engine: Engine, tenant_id: UUID, job_id: UUID) -> JobStatus | None:
    """Cancel a job, and give its status: ``running`` means that its worker has been told.

    Cancelling a cancelled job changes nothing. None: the tenant has no such job.

    Raises:
        WrongStateError: the job has ended otherwise.
    """
    with engine.begin() as connection:
        row = connection.execute(
            text(
                """
                SELECT status, campaign_id, claim_id FROM jobs
                WHERE id = :id AND tenant_id = :tenant_id FOR UPDATE
                """
            ),
            {"id": job_id, "tenant_id": tenant_id},
        ).first()
        if row is None:
            return None
        match status := JobStatus(row.status):
            case JobStatus.CANCELLED:
                return status
            case JobStatus.RUNNING:
                connection.execute(
                    text("UPDATE jobs SET cancel_requested = true WHERE id = :id"), {"id": job_id}
                )
                tell_worker(connection, row.claim_id)
                return status
            case JobStatus.WAITING | JobStatus.QUEUED:
                connection.execute(
                    text(
                        """
                        UPDATE jobs SET status = 'cancelled', finished_at = clock_timestamp(),
                            wait_reason = NULL, available_at = NULL, error = NULL
                        WHERE id = :id AND status IN ('waiting', 'queued')
                        """
                    ),
                    {"id": job_id},
                )
                moves: list[needs.Move] = [(row.campaign_id, status, JobStatus.CANCELLED)]
                moves += needs.follow(connection, [job_id], needs.lock(connection, [job_id]))
                counters.add(connection, job_id, counters.moves(moves))
                return JobStatus.CANCELLED
            case _:
                raise WrongStateError(status)


def tell_worker(connection: Connection, claim_id: UUID) -> None:
    """Have the claim's worker look at once at what is asked of its jobs."""
    connection.execute(
        text("SELECT pg_notify(:channel, :claim)"),
        {"channel": CANCEL_CHANNEL, "claim": str(claim_id)},
    )


def retry_job(engine: Engine, tenant_id: UUID, job_id: UUID) -> str | None:
    """Queue a failed or cancelled job again, with fresh attempts, and give its pool.

    What ended because of it waits for it once more. None: the tenant has no such job.

    Raises:
        WrongStateError: the job is not in such a state, its campaign is cancelled, or what it
            needs has not succeeded.
    """
    with engine.begin() as connection:
        row = connection.execute(
            text(
                """
                SELECT jobs.status, jobs.campaign_id, jobs.pool, campaigns.cancelled_at
                FROM jobs LEFT JOIN campaigns ON campaigns.id = jobs.campaign_id
                WHERE jobs.id = :id AND jobs.tenant_id = :tenant_id FOR UPDATE OF jobs
                """
            ),
            {"id": job_id, "tenant_id": tenant_id},
        ).first()
        if row is None:
            return None
        if row.status not in (JobStatus.FAILED, JobStatus.CANCELLED):
            raise WrongStateError(row.status)
        if row.cancelled_at is not None:
            raise WrongStateError("part of a cancelled campaign")
        unmet = needs.unmet(connection, job_id)
        if unmet is not None:
            raise WrongStateError(unmet)
        connection.execute(
            text(
                """
                UPDATE jobs SET status = 'queued', finished_at = NULL, error = NULL,
                    claim_id = NULL, cancel_requested = false, pause_requested = false,
                    solo = false, max_attempts = attempts + :more
                WHERE id = :id AND status IN ('failed', 'cancelled')
                """
            ),
            {"id": job_id, "more": RETRY_ATTEMPTS},
        )
        moves = [(row.campaign_id, JobStatus(row.status), JobStatus.QUEUED)]
        moves += needs.revive(connection, job_id, RETRY_ATTEMPTS)
        counters.add(connection, job_id, counters.moves(moves))
        connection.execute(
            # The campaign may have ended long ago, and its counters been checked for the last time.
            text(
                """
                UPDATE campaigns SET reconcile_at = clock_timestamp() + interval '1 hour'
                WHERE id = :id
                """
            ),
            {"id": row.campaign_id},
        )
        return str(row.pool)


def cancel_campaign(engine: Engine, tenant_id: UUID, campaign_id: UUID) -> bool:
    """Flag the campaign: no job of it is claimed any more. False: the tenant has no such one.

    Its jobs are cancelled by `cancel_flagged`, in chunks. Cancelling twice changes nothing.

    Raises:
        WrongStateError: it is finished.
    """
    with engine.begin() as connection:
        status = connection.execute(
            text(
                """
                SELECT status FROM campaigns
                WHERE id = :id AND tenant_id = :tenant_id FOR NO KEY UPDATE
                """
            ),
            {"id": campaign_id, "tenant_id": tenant_id},
        ).scalar()
        if status is None:
            return False
        shown = campaign_status(CampaignStatus(status), counters.read(connection, campaign_id))
        if shown is CampaignStatus.FINISHED:
            raise WrongStateError(shown)
        connection.execute(
            text(
                """
                UPDATE campaigns SET status = 'cancelled', cancelled_at = clock_timestamp()
                WHERE id = :id AND status IN ('compiling', 'running')
                """
            ),
            {"id": campaign_id},
        )
        return True


def cancel_flagged(engine: Engine) -> int:
    """Cancel the jobs of every cancelled campaign, in chunks; how many.

    Running ones are flagged, and their workers told. Rows that someone else is just changing are
    left to the next call.
    """
    with engine.begin() as connection:
        # By the counters: most cancelled campaigns have nothing left, at whatever size.
        unfinished = connection.execute(
            text(
                """
                SELECT campaigns.id, sum(counters.jobs) FILTER (
                    WHERE counters.status <> 'running') AS not_started
                FROM campaigns
                JOIN campaign_counters AS counters ON counters.campaign_id = campaigns.id
                WHERE campaigns.status = 'cancelled'
                  AND counters.status IN ('waiting', 'queued', 'running')
                GROUP BY campaigns.id HAVING sum(counters.jobs) > 0
                """
            )
        ).all()
    cancelled = 0
    for campaign in unfinished:
        cancelled += _flag_running(engine, campaign.id)
        if campaign.not_started:
            cancelled += sum(_cancel_not_started(engine, campaign.id))
    return cancelled


def _flag_running(engine: Engine, campaign_id: UUID) -> int:
    with engine.begin() as connection:
        rows = connection.execute(
            text(
                """
                -- By way of the claims, which are few, however large the campaign is.
                WITH running AS MATERIALIZED (
                    SELECT jobs.id FROM claims
                    JOIN jobs ON jobs.claim_id = claims.id AND jobs.status = 'running'
                    WHERE jobs.campaign_id = :id AND NOT jobs.cancel_requested
                    ORDER BY jobs.id FOR UPDATE OF jobs SKIP LOCKED
                )
                UPDATE jobs SET cancel_requested = true
                FROM running WHERE jobs.id = running.id AND jobs.status = 'running'
                RETURNING jobs.claim_id
                """
            ),
            {"id": campaign_id},
        ).all()
        for claim in {row.claim_id for row in rows}:
            tell_worker(connection, claim)
        return len(rows)


def _cancel_not_started(engine: Engine, campaign_id: UUID) -> Iterator[int]:
    """A transaction per chunk, each from where the one before ended."""
    behind = UUID(int=0)
    while True:
        with engine.begin() as connection:
            rows = connection.execute(
                text(
                    """
                    WITH chunk AS (
                        SELECT id, status FROM jobs
                        WHERE campaign_id = :campaign_id AND id > :behind
                          AND status IN ('waiting', 'queued')
                        ORDER BY id LIMIT :size FOR UPDATE SKIP LOCKED
                    )
                    UPDATE jobs SET status = 'cancelled', cancel_requested = true,
                        finished_at = clock_timestamp(),
                        wait_reason = NULL, available_at = NULL, error = NULL
                    FROM chunk WHERE jobs.id = chunk.id AND jobs.status IN ('waiting', 'queued')
                    RETURNING jobs.id, chunk.status
                    """
                ),
                {"campaign_id": campaign_id, "behind": behind, "size": CHUNK},
            ).all()
            moves: list[needs.Move] = [
                (campaign_id, JobStatus(row.status), JobStatus.CANCELLED) for row in rows
            ]
            ended = [row.id for row in rows]
            moves += needs.follow(connection, ended, needs.lock(connection, ended, wait=False))
            counters.add(connection, campaign_id, counters.moves(moves))
        yield len(rows)
        if not rows:
            return
        behind = max(row.id for row in rows)
