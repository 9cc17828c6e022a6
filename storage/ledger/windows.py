"""Run windows: the jobs of a closed campaign wait for its next window, or expire."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, text

from storage import counters
from storage.ledger import needs
from storage.ledger.claim import LOOK_AGAIN_S
from storage.lifecycle import JobStatus

CHUNK = 2000
FIRST = UUID(int=0)
"""Before every id."""


@dataclass(frozen=True)
class Reopening:
    """A campaign whose next window has come: it is closed until someone sets the times of that."""

    campaign_id: UUID
    reopens_at: datetime
    run_window: dict[str, Any]


def reopening(connection: Connection, now: datetime) -> Sequence[Reopening]:
    """The campaigns whose next window has come, locked."""
    rows = connection.execute(
        text(
            """
            SELECT id, reopens_at, run_window FROM campaigns
            WHERE closes_at <= :now AND reopens_at <= :now
            ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
            """
        ),
        {"now": now},
    )
    return [Reopening(row.id, row.reopens_at, row.run_window) for row in rows]


def set_times(
    connection: Connection, campaign_id: UUID, closes_at: datetime, reopens_at: datetime | None
) -> None:
    """Open the campaign until ``closes_at``, and again from ``reopens_at`` on (None: never)."""
    connection.execute(
        text("UPDATE campaigns SET closes_at = :closes, reopens_at = :reopens WHERE id = :id"),
        {"id": campaign_id, "closes": closes_at, "reopens": reopens_at},
    )


def forget_finished(engine: Engine) -> None:
    """Take the window from closed campaigns that are over: a retry then runs when asked for."""
    with engine.begin() as connection:
        connection.execute(
            text(
                """
                UPDATE campaigns SET closes_at = NULL, reopens_at = NULL
                WHERE closes_at <= clock_timestamp() AND status <> 'compiling'
                  AND NOT EXISTS (
                    SELECT FROM campaign_counters
                    WHERE campaign_id = campaigns.id
                      AND campaign_counters.status IN ('waiting', 'queued', 'running')
                    HAVING sum(campaign_counters.jobs) > 0)
                """
            )
        )


def to_hold(engine: Engine) -> Sequence[UUID]:
    """The closed campaigns that have jobs to be held back, by their counters."""
    with engine.begin() as connection:
        return (
            connection.execute(
                text(
                    """
                    SELECT campaigns.id FROM campaigns
                    JOIN campaign_counters AS counters ON counters.campaign_id = campaigns.id
                    WHERE campaigns.closes_at <= clock_timestamp()
                      AND (counters.status = 'queued'
                        OR (counters.status = 'waiting' AND campaigns.reopens_at IS NULL))
                    GROUP BY campaigns.id HAVING sum(counters.jobs) > 0
                    """
                )
            )
            .scalars()
            .all()
        )


def hold(engine: Engine, campaign_id: UUID, after: UUID = FIRST) -> UUID | None:
    """Hold back a chunk of a closed campaign's jobs, from behind the id ``after``.

    Those queued wait for its next window, or expire where there is none; then those that waited
    expire as well. Gives the last id that was looked at, for the next call; None: there are no
    more. What runs may finish.
    """
    with engine.begin() as connection:
        rows = connection.execute(
            text(
                """
                WITH chunk AS (
                    SELECT jobs.id, jobs.status AS before, campaigns.reopens_at,
                           CASE WHEN campaigns.reopens_at IS NULL THEN 'expired'
                                ELSE 'waiting' END AS next
                    FROM campaigns JOIN jobs ON jobs.campaign_id = campaigns.id
                    WHERE campaigns.id = :id AND campaigns.closes_at <= clock_timestamp()
                      AND jobs.id > :after
                      AND (jobs.status = 'queued'
                        OR (jobs.status = 'waiting' AND campaigns.reopens_at IS NULL))
                    ORDER BY jobs.id LIMIT :size FOR UPDATE OF jobs SKIP LOCKED
                )
                UPDATE jobs SET
                    status = next,
                    finished_at = CASE WHEN next = 'expired' THEN clock_timestamp() END,
                    wait_reason = CASE WHEN next = 'waiting' THEN 'window' END,
                    available_at = CASE WHEN next = 'waiting' THEN greatest(
                        chunk.reopens_at,
                        clock_timestamp() + make_interval(secs => :look_again_s)) END
                FROM chunk WHERE jobs.id = chunk.id AND jobs.status = chunk.before
                RETURNING jobs.id, chunk.before, jobs.status
                """
            ),
            {"id": campaign_id, "after": after, "size": CHUNK, "look_again_s": LOOK_AGAIN_S},
        ).all()
        moves: list[needs.Move] = [
            (campaign_id, JobStatus(row.before), JobStatus(row.status)) for row in rows
        ]
        ended = [row.id for row in rows if row.status == JobStatus.EXPIRED]
        moves += needs.follow(connection, ended, needs.lock(connection, ended, wait=False))
        counters.add(connection, campaign_id, counters.moves(moves))
        return max((row.id for row in rows), default=None)
