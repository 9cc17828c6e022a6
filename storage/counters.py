"""Campaign progress that stays cheap at a million jobs: sums of deltas, never a count of rows."""

from collections import Counter
from collections.abc import Iterable, Mapping
from uuid import UUID

from sqlalchemy import Connection, func, select, text

from storage.lifecycle import JobStatus
from storage.tables import CampaignCounter

SLOTS = 16

Deltas = Counter[tuple[UUID, JobStatus]]
"""Change in the number of jobs per (campaign, status)."""


def moves(
    changes: Iterable[tuple[UUID | None, JobStatus, JobStatus]],
) -> Deltas:
    """The deltas of jobs that each went from one status to another; None: of no campaign."""
    deltas: Deltas = Counter()
    for campaign_id, before, after in changes:
        if campaign_id is not None:
            deltas[campaign_id, before] -= 1
            deltas[campaign_id, after] += 1
    return deltas


def add(connection: Connection, writer: UUID, deltas: Mapping[tuple[UUID, JobStatus], int]) -> None:
    """Add ``deltas`` in the caller's transaction, to the slot that belongs to ``writer``."""
    rows = sorted((str(campaign), status.value, n) for (campaign, status), n in deltas.items() if n)
    if not rows:
        return
    connection.execute(
        text(
            """
            INSERT INTO campaign_counters (campaign_id, status, slot, jobs)
            SELECT d.campaign_id, d.status, :slot, d.jobs
            FROM unnest(CAST(:campaigns AS uuid[]), CAST(:statuses AS text[]),
                        CAST(:jobs AS bigint[])) AS d (campaign_id, status, jobs)
            -- One order for all writers of a slot, or two of them could deadlock.
            ORDER BY d.campaign_id, d.status
            ON CONFLICT (campaign_id, status, slot)
            DO UPDATE SET jobs = campaign_counters.jobs + excluded.jobs
            """
        ),
        {
            "slot": writer.int % SLOTS,
            "campaigns": [campaign for campaign, _, _ in rows],
            "statuses": [status for _, status, _ in rows],
            "jobs": [n for _, _, n in rows],
        },
    )


def read(connection: Connection, campaign_id: UUID) -> dict[JobStatus, int]:
    """Jobs of the campaign by status, every status present."""
    rows = connection.execute(
        select(CampaignCounter.status, func.sum(CampaignCounter.jobs))
        .where(CampaignCounter.campaign_id == campaign_id)
        .group_by(CampaignCounter.status)
    )
    found = {JobStatus(status): int(jobs) for status, jobs in rows}
    return {status: found.get(status, 0) for status in JobStatus}


def recount(connection: Connection, campaign_id: UUID) -> dict[JobStatus, int]:
    """The same by counting rows: slow, for checks that the counters have not drifted."""
    rows = connection.execute(
        text("SELECT status, count(*) FROM jobs WHERE campaign_id = :id GROUP BY status"),
        {"id": campaign_id},
    )
    found = {JobStatus(status): int(jobs) for status, jobs in rows}
    return {status: found.get(status, 0) for status in JobStatus}
