"""How single jobs are paused and resumed.

A paused job waits, with the flag that asked for it, until somebody resumes it. While one that is
to be paused runs, the flag tells its worker; whoever takes it from there (a finish, or the sweeper)
has it wait instead of queueing it.
"""

from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, Row, text

from storage.ledger.cancel import WrongStateError, tell_worker
from storage.lifecycle import JobStatus, WaitReason


def pause_job(engine: Engine, tenant_id: UUID, job_id: UUID) -> JobStatus | None:
    """Pause a job, and give its status: ``running`` means that its worker has been told.

    No attempt is counted. Pausing twice changes nothing. None: the tenant has no such job.

    Raises:
        WrongStateError: the job has ended, waits for what it needs, or is part of a campaign.
    """
    with engine.begin() as connection:
        row = _lock(connection, tenant_id, job_id)
        if row is None:
            return None
        if row.campaign_id is not None:
            raise WrongStateError("part of a campaign, whose jobs cannot be paused")
        if row.wait_reason == WaitReason.NEED:
            raise WrongStateError("waiting for what another job makes: pause it once it is queued")
        match status := JobStatus(row.status):
            case JobStatus.RUNNING:
                connection.execute(
                    text("UPDATE jobs SET pause_requested = true WHERE id = :id"), {"id": job_id}
                )
                tell_worker(connection, row.claim_id)
                return status
            case JobStatus.WAITING | JobStatus.QUEUED:
                connection.execute(
                    text(
                        """
                        UPDATE jobs SET status = 'waiting', wait_reason = 'pause',
                            available_at = 'infinity', pause_requested = true
                        WHERE id = :id AND status IN ('waiting', 'queued')
                        """
                    ),
                    {"id": job_id},
                )
                return JobStatus.WAITING
            case _:
                raise WrongStateError(status)


def resume_job(engine: Engine, tenant_id: UUID, job_id: UUID) -> str | None:
    """Queue a paused job again, and give its pool; one that still runs is to go on.

    None: the tenant has no such job.

    Raises:
        WrongStateError: the job is not paused.
    """
    with engine.begin() as connection:
        row = _lock(connection, tenant_id, job_id)
        if row is None:
            return None
        if row.status == JobStatus.RUNNING and row.pause_requested:
            connection.execute(
                text("UPDATE jobs SET pause_requested = false WHERE id = :id"), {"id": job_id}
            )
            tell_worker(connection, row.claim_id)
        elif row.wait_reason == WaitReason.PAUSE:
            connection.execute(
                text(
                    """
                    UPDATE jobs SET status = 'queued', wait_reason = NULL, available_at = NULL,
                        pause_requested = false
                    WHERE id = :id AND status = 'waiting'
                    """
                ),
                {"id": job_id},
            )
        else:
            raise WrongStateError(f"{row.status}, not paused")
        return str(row.pool)


def _lock(connection: Connection, tenant_id: UUID, job_id: UUID) -> Row[Any] | None:
    return connection.execute(
        text(
            """
            SELECT status, wait_reason, campaign_id, claim_id, pool, pause_requested FROM jobs
            WHERE id = :id AND tenant_id = :tenant_id FOR UPDATE
            """
        ),
        {"id": job_id, "tenant_id": tenant_id},
    ).first()
