"""How work is stopped, and how it is asked for again."""

from collections import Counter
from uuid import UUID

from sqlalchemy import Connection, Engine, text

from storage import counters
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
                _tell_worker(connection, row.claim_id)
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
                moved = (row.campaign_id, status, JobStatus.CANCELLED)
                counters.add(connection, job_id, counters.moves([moved]))
                return JobStatus.CANCELLED
            case _:
                raise WrongStateError(status)


def _tell_worker(connection: Connection, claim_id: UUID) -> None:
    connection.execute(
        text("SELECT pg_notify(:channel, :claim)"),
        {"channel": CANCEL_CHANNEL, "claim": str(claim_id)},
    )


def retry_job(engine: Engine, tenant_id: UUID, job_id: UUID) -> str | None:
    """Queue a failed or cancelled job again, with fresh attempts, and give its pool.

    None: the tenant has no such job.

    Raises:
        WrongStateError: the job is not in such a state, or its campaign is cancelled.
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
        connection.execute(
            text(
                """
                UPDATE jobs SET status = 'queued', finished_at = NULL, error = NULL,
                    claim_id = NULL, cancel_requested = false, solo = false,
                    max_attempts = attempts + :more
                WHERE id = :id AND status IN ('failed', 'cancelled')
                """
            ),
            {"id": job_id, "more": RETRY_ATTEMPTS},
        )
        moved = (row.campaign_id, JobStatus(row.status), JobStatus.QUEUED)
        counters.add(connection, job_id, counters.moves([moved]))
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
    """Cancel a chunk of jobs of every cancelled campaign; how many (0: nothing left to do).

    Running ones are flagged, and their workers told.
    """
    with engine.begin() as connection:
        # By the counters: most cancelled campaigns have nothing left, at whatever size.
        campaign_ids = (
            connection.execute(
                text(
                    """
                SELECT campaigns.id FROM campaigns
                JOIN campaign_counters AS counters ON counters.campaign_id = campaigns.id
                WHERE campaigns.status = 'cancelled'
                  AND counters.status IN ('waiting', 'queued', 'running')
                GROUP BY campaigns.id HAVING sum(counters.jobs) > 0
                """
                )
            )
            .scalars()
            .all()
        )
    return sum(_cancel_chunk(engine, campaign_id) for campaign_id in campaign_ids)


def _cancel_chunk(engine: Engine, campaign_id: UUID) -> int:
    with engine.begin() as connection:
        rows = connection.execute(
            text(
                """
                WITH chunk AS (
                    SELECT id, status, claim_id FROM jobs
                    WHERE campaign_id = :id AND (status IN ('waiting', 'queued')
                        OR (status = 'running' AND NOT cancel_requested))
                    ORDER BY id LIMIT :size FOR UPDATE SKIP LOCKED
                )
                UPDATE jobs SET
                    cancel_requested = true,
                    status = CASE WHEN jobs.status = 'running' THEN 'running'
                        ELSE 'cancelled' END,
                    finished_at = CASE WHEN jobs.status <> 'running' THEN clock_timestamp() END,
                    wait_reason = NULL, available_at = NULL,
                    error = CASE WHEN jobs.status = 'running' THEN error END
                FROM chunk WHERE jobs.id = chunk.id
                RETURNING chunk.status, chunk.claim_id
                """
            ),
            {"id": campaign_id, "size": CHUNK},
        ).all()
        deltas: counters.Deltas = Counter()
        for row in rows:
            if row.status != JobStatus.RUNNING:
                deltas[campaign_id, JobStatus(row.status)] -= 1
                deltas[campaign_id, JobStatus.CANCELLED] += 1
        counters.add(connection, campaign_id, deltas)
        for claim in {row.claim_id for row in rows if row.status == JobStatus.RUNNING}:
            _tell_worker(connection, claim)
        return len(rows)
