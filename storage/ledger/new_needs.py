"""The needs of a new job: checked, and held until the job is there, so that none ends unseen."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import Connection, Engine, text

from storage.lifecycle import FINAL, JobStatus

MAX_NEEDS = 100
"""How many others one job may need."""

MAX_DEPTH = 50
"""How many unfinished jobs may stand in a row, each in need of the one before."""

_FINAL = ", ".join(f"'{status.value}'" for status in sorted(FINAL))


class NeedError(Exception):
    """A need that ``status`` makes useless: it has ended otherwise, or (None) there is none."""

    def __init__(self, need_id: UUID, status: JobStatus | None) -> None:
        super().__init__(need_id, status)
        self.need_id = need_id
        self.status = status


class NeedBusyError(Exception):
    """Someone else holds a need just now: `wait` for it, and try again."""

    def __init__(self, need_id: UUID) -> None:
        super().__init__(need_id)
        self.need_id = need_id


class TooDeepError(Exception):
    """There would be more than `MAX_DEPTH` jobs in a row."""


def kinds(connection: Connection, tenant_id: UUID, job_ids: Collection[UUID]) -> dict[UUID, str]:
    """The kinds of those of ``job_ids`` that are jobs of the tenant's."""
    rows = connection.execute(
        text("SELECT id, kind FROM jobs WHERE id = ANY(:ids) AND tenant_id = :tenant_id"),
        {"ids": list(job_ids), "tenant_id": tenant_id},
    )
    return {row.id: row.kind for row in rows}


def hold(connection: Connection, tenant_id: UUID, need_ids: Collection[UUID]) -> bool:
    """Keep the needs of a new job from ending until it is committed; whether all have succeeded.

    Raises:
        NeedError: with one of them the job could never run.
        NeedBusyError: nothing may be waited for while the others are held.
        TooDeepError: the job would stand behind too many others.
    """
    ids = sorted(need_ids)
    held: dict[UUID, JobStatus] = {
        row.id: JobStatus(row.status)
        for row in connection.execute(
            text(
                """
                SELECT id, status FROM jobs
                WHERE id = ANY(:ids) AND tenant_id = :tenant_id FOR SHARE SKIP LOCKED
                """
            ),
            {"ids": ids, "tenant_id": tenant_id},
        )
    }
    known = kinds(connection, tenant_id, need_ids)
    for need_id in ids:
        if need_id not in known:
            raise NeedError(need_id, None)
        if need_id not in held:
            raise NeedBusyError(need_id)
        if held[need_id] in FINAL and held[need_id] is not JobStatus.SUCCEEDED:
            raise NeedError(need_id, held[need_id])
    if _depth(connection, need_ids) > MAX_DEPTH:
        raise TooDeepError
    return set(held.values()) == {JobStatus.SUCCEEDED}


def wait(engine: Engine, need_id: UUID) -> None:
    """Return as soon as whoever held the need has let it go."""
    with engine.begin() as connection:
        connection.execute(text("SELECT FROM jobs WHERE id = :id FOR SHARE"), {"id": need_id})


def _depth(connection: Connection, need_ids: Collection[UUID]) -> int:
    """How many unfinished jobs stand in a row up to a job with these needs, that one included."""
    depth: int = connection.execute(
        text(
            f"""
            WITH RECURSIVE above AS (
                SELECT id, 1 AS depth FROM jobs WHERE id = ANY(:ids) AND status NOT IN ({_FINAL})
                UNION
                SELECT jobs.id, depth + 1 FROM above
                JOIN job_needs ON job_needs.job_id = above.id
                JOIN jobs ON jobs.id = job_needs.need_id AND jobs.status NOT IN ({_FINAL})
                WHERE depth < :most
            )
            SELECT coalesce(max(depth), 0) FROM above
            """  # noqa: S608 (our own words)
        ),
        {"ids": list(need_ids), "most": MAX_DEPTH},
    ).scalar_one()
    return depth + 1


def add(connection: Connection, job_id: UUID, need_ids: Collection[UUID]) -> None:
    """Write down what a new job outside of campaigns needs."""
    connection.execute(
        text(
            """
            INSERT INTO job_needs (need_id, job_id, name)
            SELECT id, :job_id, CAST(id AS text) FROM unnest(CAST(:ids AS uuid[])) AS need (id)
            """
        ),
        {"job_id": job_id, "ids": sorted(need_ids)},
    )
