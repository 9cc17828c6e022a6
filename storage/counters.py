"""Campaign progress that stays cheap at a million jobs: sums of deltas, never a count of rows."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, Engine, func, select, text

from storage.lifecycle import FINAL, CampaignStatus, JobStatus
from storage.tables import Campaign, CampaignCounter

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


def slot(writer: UUID) -> int:
    """The slot that belongs to ``writer``."""
    return writer.int % SLOTS


_ADD = """
    ON CONFLICT (campaign_id, status, slot)
    DO UPDATE SET jobs = campaign_counters.jobs + excluded.jobs
"""

ADD_MOVED = f"""
    INSERT INTO campaign_counters (campaign_id, status, slot, jobs)
    SELECT campaign_id, status, :slot, sum(jobs)
    FROM (SELECT campaign_id, :before AS status, -1 AS jobs FROM moved
          UNION ALL SELECT campaign_id, status, 1 FROM moved) AS deltas
    WHERE campaign_id IS NOT NULL
    -- In `add`'s order, and behind the last of the jobs: a group is whole only then.
    GROUP BY campaign_id, status ORDER BY campaign_id, status {_ADD}
"""  # noqa: S608 (constants)
"""For a statement whose WITH query ``moved`` gives jobs that were in status ``:before``: `add`
without a round trip of its own."""


def add(
    connection: Connection,
    writer: UUID,
    deltas: Mapping[tuple[UUID, JobStatus], int],
    *,
    following: bool = False,
) -> None:
    """Add ``deltas`` in the caller's transaction, to the slot that belongs to ``writer``.

    ``following``: to one beyond all of those, for a transaction that has added to its slot before.
    Two that did so to one slot, each in its order, could deadlock.
    """
    rows = sorted((str(campaign), status.value, n) for (campaign, status), n in deltas.items() if n)
    if not rows:
        return
    connection.execute(
        text(
            f"""
            INSERT INTO campaign_counters (campaign_id, status, slot, jobs)
            SELECT d.campaign_id, d.status, :slot, d.jobs
            FROM unnest(CAST(:campaigns AS uuid[]), CAST(:statuses AS text[]),
                        CAST(:jobs AS bigint[])) AS d (campaign_id, status, jobs)
            -- One order for all writers of a slot, or two of them could deadlock.
            ORDER BY d.campaign_id, d.status {_ADD}
            """  # noqa: S608 (constants)
        ),
        {
            "slot": slot(writer) + (SLOTS if following else 0),
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


def reconcile(engine: Engine, campaign_id: UUID) -> dict[JobStatus, int]:
    """Make the counters equal the rows, and give what was added to each; {}: they were equal.

    Right while jobs change: one statement sees jobs and counters as of one moment, when every
    transaction is in both or in neither, and what it finds is added as one more delta.
    """
    with engine.begin() as connection:
        # Alone, and before the snapshot is taken: two would add the same difference.
        connection.execute(
            text("SELECT pg_advisory_xact_lock(hashtextextended('presswork counters ' || :id, 0))"),
            {"id": str(campaign_id)},
        )
        rows = connection.execute(
            text(
                """
                WITH counted AS (
                    SELECT status, count(*) AS jobs FROM jobs
                    WHERE campaign_id = :id GROUP BY status
                ), kept AS (
                    SELECT status, sum(jobs) AS jobs FROM campaign_counters
                    WHERE campaign_id = :id GROUP BY status
                )
                SELECT status, coalesce(counted.jobs, 0) - coalesce(kept.jobs, 0) AS drift
                FROM counted FULL JOIN kept USING (status)
                WHERE coalesce(counted.jobs, 0) <> coalesce(kept.jobs, 0)
                """
            ),
            {"id": campaign_id},
        ).all()
        drift = {JobStatus(row.status): int(row.drift) for row in rows}
        deltas = {(campaign_id, status): jobs for status, jobs in drift.items()}
        add(connection, campaign_id, deltas)
    return drift


@dataclass(frozen=True)
class Reconciled:
    """A campaign whose counters have just been compared with its rows; ``drift`` as above."""

    campaign_id: UUID
    drift: dict[JobStatus, int]


def reconcile_next(engine: Engine) -> Reconciled | None:
    """Reconcile one campaign whose turn has come; None: there is no such campaign.

    While it has unfinished jobs its turn comes each hour, and then once more. Whoever takes it
    sets its next turn first, so that nobody else counts the same rows, and whoever dies over it
    leaves it to the next hour.
    """
    with engine.begin() as connection:
        taken = connection.execute(
            text(
                """
                WITH due AS (
                    SELECT id FROM campaigns WHERE reconcile_at <= clock_timestamp()
                    ORDER BY reconcile_at LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
                )
                UPDATE campaigns SET reconcile_at = clock_timestamp() + interval '1 hour'
                FROM due WHERE campaigns.id = due.id
                RETURNING campaigns.id, campaigns.reconcile_at
                """
            )
        ).first()
    if taken is None:
        return None
    with engine.begin() as connection:
        # Before the rows are counted, so that they are as they were left at the end.
        over = _is_over(connection, taken.id)
    drift = reconcile(engine, taken.id)
    if over and not drift:
        with engine.begin() as connection:
            # Unless a retry has given it a turn of its own meanwhile.
            connection.execute(
                text(
                    """
                    UPDATE campaigns SET reconcile_at = NULL
                    WHERE id = :id AND reconcile_at = :reconcile_at
                    """
                ),
                {"id": taken.id, "reconcile_at": taken.reconcile_at},
            )
    return Reconciled(taken.id, drift)


def _is_over(connection: Connection, campaign_id: UUID) -> bool:
    status = connection.execute(select(Campaign.status).where(Campaign.id == campaign_id)).scalar()
    counts = read(connection, campaign_id)
    return status != CampaignStatus.COMPILING and not any(
        jobs for status, jobs in counts.items() if status not in FINAL
    )
