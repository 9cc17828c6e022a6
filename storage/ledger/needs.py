"""Jobs that start from what others make: they wait for it, follow its end, are revived with it.

**Locks.** A job's id is above those of what it needs (`submit` sees to that), and whoever holds job
rows waits for further ones in the order of their ids and upwards only:

- A finish holds running jobs, for which nobody waits who holds a job that waits for a need; then it
  locks what depends on them, all levels at once, in one order.
- A cancel or a retry holds one job, and then what depends on it, which is above it.
- Whoever has taken many with SKIP LOCKED takes what depends on them in that way as well.
- A submission waits for no need while it holds another one.

So nobody waits in a circle. **Nothing is lost**: two needs of one job may end at the same moment,
and each of their transactions sees the other one's need unfinished. But each locks the job before
it looks: the one that comes second waits for the first one's commit, and looks in a statement of
its own, whose snapshot is younger than that. What was skipped because somebody held it, and what a
worker of a release before this one has finished, is found by `settle_missed`.
"""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, Row, text

from storage import counters
from storage.lifecycle import FINAL, RETRYABLE, JobStatus

LOOKED_AT_ONCE = 1000

_FINAL = ", ".join(f"'{status.value}'" for status in sorted(FINAL))
_BAD = ", ".join(f"'{status.value}'" for status in sorted(FINAL - {JobStatus.SUCCEEDED}))

Move = tuple[UUID | None, JobStatus, JobStatus]
"""A job's campaign, its status before and after, as `storage.counters.moves` takes it."""


@dataclass(frozen=True)
class NeedArtifact:
    """An output that another job starts from."""

    object_key: str
    media_type: str
    sha256: str
    licence: str | None = None
    attribution: tuple[str, ...] = ()
    """What licence and attribution its facts have, which go on to what is made of it."""


def artifacts(
    engine: Engine, job_ids: Collection[UUID]
) -> dict[UUID, dict[str, list[NeedArtifact]]]:
    """What the needs of each job have made, in the order of their outputs, by the need's name.

    The name is the creative's, or outside of campaigns the job's id as text.
    """
    found: dict[UUID, dict[str, list[NeedArtifact]]] = {}
    with engine.begin() as connection:
        rows = connection.execute(
            text(
                """
                SELECT job_needs.job_id, name, object_key, media_type, sha256,
                       facts ->> 'licence' AS licence, facts -> 'attribution' AS attribution
                FROM job_needs JOIN artifacts ON artifacts.job_id = job_needs.need_id
                WHERE job_needs.job_id = ANY(:ids)
                ORDER BY job_needs.job_id, name, artifacts.index
                """
            ),
            {"ids": list(job_ids)},
        )
        for row in rows:
            made = NeedArtifact(
                row.object_key,
                row.media_type,
                row.sha256,
                row.licence,
                tuple(row.attribution or ()),
            )
            found.setdefault(row.job_id, {}).setdefault(row.name, []).append(made)
    return found


def lock(connection: Connection, ended: Collection[UUID], *, wait: bool = True) -> list[UUID]:
    """Lock all that depends on jobs which end or ended just now, and give what is locked.

    To be called before the transaction touches any counter. Not to ``wait``: what somebody else
    holds is left out.
    """
    found: set[UUID] = set()
    level: Collection[UUID] = ended
    while level:
        level = _dependants(connection, level) - found
        found |= level
    if not found:
        return []
    skip = "" if wait else "SKIP LOCKED"
    rows = connection.execute(
        # Those that a retry may revive as well: it must not miss that a need of theirs has ended.
        text(
            f"""
            SELECT id FROM jobs
            WHERE id = ANY(:ids) AND status IN ('waiting', 'failed', 'cancelled')
            ORDER BY id FOR UPDATE {skip}
            """  # noqa: S608 (our own words)
        ),
        {"ids": list(found)},
    )
    return list(rows.scalars())


def _dependants(connection: Connection, need_ids: Collection[UUID]) -> set[UUID]:
    return set(
        connection.execute(
            text("SELECT job_id FROM job_needs WHERE need_id = ANY(:ids)"), {"ids": list(need_ids)}
        ).scalars()
    )


def follow(connection: Connection, ended: Collection[UUID], locked: Collection[UUID]) -> list[Move]:
    """Queue, fail or cancel what waited for jobs that have just ended, by what became of these.

    ``locked`` is what `lock` gave: nothing else is touched. The caller adds the moves to the
    counters.
    """
    moves: list[Move] = []
    level = _dependants(connection, ended) if locked else set()
    while level := level & set(locked):
        rows = _decide(connection, level)
        moves += [_move(row) for row in rows]
        level = _dependants(connection, [row.id for row in rows if row.status in FINAL])
    return moves


def _move(row: Row[Any]) -> Move:
    return row.campaign_id, JobStatus(row.before), JobStatus(row.status)


def _decide(connection: Connection, job_ids: Collection[UUID]) -> Sequence[Row[Any]]:
    """Move those of the jobs, all of them locked, that have nothing left to wait for."""
    return connection.execute(_DECIDE, {"ids": list(job_ids), "most": MESSAGE_CHARS}).all()


MESSAGE_CHARS = 1000

_DECIDE = text(
    """
    -- Of each job's needs the one that decides: one that ended badly, or else one that has yet to.
    WITH deciding AS MATERIALIZED (
        SELECT DISTINCT ON (job_needs.job_id) job_needs.job_id, need_id, name, error,
               coalesce(status, 'deleted') AS status
        FROM job_needs LEFT JOIN jobs AS need ON need.id = job_needs.need_id
        WHERE job_needs.job_id = ANY(:ids)
        ORDER BY job_needs.job_id, CASE coalesce(status, 'deleted')
            WHEN 'failed' THEN 0 WHEN 'expired' THEN 0 WHEN 'deleted' THEN 0
            WHEN 'cancelled' THEN 1 WHEN 'succeeded' THEN 3 ELSE 2 END, need_id
    ), decided AS MATERIALIZED (
        SELECT jobs.id, campaigns.reopens_at, CASE
            -- Outside of its campaign's run window it waits for the next one.
            WHEN deciding.status = 'succeeded' AND closes_at <= clock_timestamp()
                AND reopens_at IS NOT NULL THEN 'waiting'
            WHEN deciding.status = 'succeeded' THEN 'queued'
            WHEN deciding.status = 'cancelled' THEN 'cancelled'
            ELSE 'failed' END AS next,
            'needs ' || CASE WHEN deciding.name = CAST(need_id AS text) THEN 'job ' || need_id
                ELSE deciding.name || ' (job ' || need_id || ')' END || ', which '
            || CASE deciding.status WHEN 'failed' THEN 'failed: '
                    || concat_ws(': ', deciding.error->>'code', deciding.error->>'message')
                WHEN 'expired' THEN 'expired' ELSE 'was ' || deciding.status END AS because
        FROM deciding JOIN jobs ON jobs.id = deciding.job_id
        LEFT JOIN campaigns ON campaigns.id = jobs.campaign_id
        WHERE deciding.status IN ('succeeded', 'failed', 'expired', 'deleted', 'cancelled')
    )
    UPDATE jobs SET
        status = next,
        wait_reason = CASE WHEN next = 'waiting' THEN 'window' END,
        available_at = CASE WHEN next = 'waiting' THEN reopens_at END,
        finished_at = CASE WHEN next IN ('failed', 'cancelled') THEN clock_timestamp() END,
        error = CASE WHEN next IN ('failed', 'cancelled') THEN
            jsonb_build_object('code', 'need_' || next, 'message', left(because, :most)) END
    FROM decided
    WHERE jobs.id = decided.id AND jobs.status = 'waiting' AND jobs.wait_reason = 'need'
    RETURNING jobs.id, jobs.campaign_id, 'waiting' AS before, jobs.status
    """
)


def unmet(connection: Connection, job_id: UUID) -> str | None:
    """What keeps a job that ended from being tried again; None: its needs have succeeded."""
    row = connection.execute(
        text(
            """
            SELECT need_id, name, coalesce(status, 'deleted') AS status
            FROM job_needs LEFT JOIN jobs ON jobs.id = job_needs.need_id
            WHERE job_id = :id AND status IS DISTINCT FROM 'succeeded' ORDER BY need_id LIMIT 1
            """
        ),
        {"id": job_id},
    ).first()
    if row is None:
        return None
    called = "" if row.name == str(row.need_id) else f"{row.name}, "
    says = f"in need of {called}job {row.need_id}, which is {row.status}"
    retryable = row.status in RETRYABLE
    return f"{says}: retry that one, and this one follows" if retryable else says


def revive(connection: Connection, need_id: UUID, more_attempts: int) -> list[Move]:
    """Let what ended with a job that is tried again wait for it once more; all levels.

    What has another need that ended badly stays as it is, and so does what was itself cancelled.
    The caller holds that job, and adds the moves to the counters.
    """
    locked = set(lock(connection, [need_id]))
    moves: list[Move] = []
    level = _dependants(connection, [need_id]) if locked else set()
    while level := level & locked:
        rows = connection.execute(
            _REVIVE, {"ids": list(level), "more": more_attempts, "codes": list(FOLLOWED)}
        ).all()
        moves += [_move(row) for row in rows]
        level = _dependants(connection, [row.id for row in rows])
    return moves


FOLLOWED = ("need_failed", "need_cancelled")
"""The codes of errors that say: not this job ended badly, but one that it needs."""

_REVIVE = text(
    f"""
    UPDATE jobs SET status = 'waiting', wait_reason = 'need', available_at = 'infinity',
        finished_at = NULL, error = NULL, claim_id = NULL, cancel_requested = false,
        pause_requested = false, solo = false, max_attempts = attempts + :more
    WHERE id = ANY(:ids) AND status IN ('failed', 'cancelled') AND error->>'code' = ANY(:codes)
      AND NOT EXISTS (
        SELECT FROM job_needs LEFT JOIN jobs AS need ON need.id = job_needs.need_id
        WHERE job_needs.job_id = jobs.id
          AND (need.status IS NULL OR need.status IN ({_BAD})))
    RETURNING id, campaign_id, OLD.status AS before, NEW.status
    """  # noqa: S608 (our own words)
)


def settle_missed(engine: Engine) -> int:
    """Move jobs that wait for needs of which none, or a bad one, decides any more; how many.

    A bounded look, at the oldest of them and at some that chance picks: usually there is nothing,
    and where very many wait, each has its turn after a while.
    """
    with engine.begin() as connection:
        first, last = connection.execute(
            text(
                """
                SELECT (SELECT id FROM jobs WHERE wait_reason = 'need' ORDER BY id LIMIT 1),
                       (SELECT id FROM jobs WHERE wait_reason = 'need' ORDER BY id DESC LIMIT 1)
                """
            )
        ).one()
    if first is None:
        return 0
    by_chance = UUID(int=random.randint(first.int, last.int))  # noqa: S311 (spreading looks)
    return sum(_settle(engine, start) for start in (first, by_chance))


def _settle(engine: Engine, start: UUID) -> int:
    with engine.begin() as connection:
        found = connection.execute(
            text(
                f"""
                WITH looked_at AS MATERIALIZED (
                    SELECT id FROM jobs WHERE wait_reason = 'need' AND id >= :start
                    ORDER BY id LIMIT :most
                )
                SELECT id FROM looked_at CROSS JOIN LATERAL (
                    SELECT bool_and(need.status IS NOT DISTINCT FROM 'succeeded') AS met,
                           bool_or(need.status IS NULL OR need.status IN ({_BAD})) AS lost
                    FROM job_needs LEFT JOIN jobs AS need ON need.id = job_needs.need_id
                    WHERE job_needs.job_id = looked_at.id
                ) AS needs WHERE met OR lost
                """  # noqa: S608 (our own words)
            ),
            {"start": start, "most": LOOKED_AT_ONCE},
        ).scalars()
        ids = list(found)
        if not ids:
            return 0
        locked = connection.execute(
            text(
                """
                SELECT id FROM jobs WHERE id = ANY(:ids) AND wait_reason = 'need'
                ORDER BY id FOR UPDATE SKIP LOCKED
                """
            ),
            {"ids": ids},
        ).scalars()
        rows = _decide(connection, list(locked))
        ended = [row.id for row in rows if row.status in FINAL]
        moves = [_move(row) for row in rows]
        moves += follow(connection, ended, lock(connection, ended, wait=False))
        counters.add(connection, start, counters.moves(moves))
        return len(moves)
