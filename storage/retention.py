"""What is deleted when it has been kept for long enough: campaigns, jobs and their objects."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, text

from storage import counters, job_events, orphans
from storage.lifecycle import FINAL, JobStatus
from storage.objects import ObjectStore, training_prefix

JOBS_AT_ONCE = 500
RECIPIENTS_AT_ONCE = 5000
OBJECTS_AT_ONCE = 1000
"""As many as one call of S3 takes."""

_FINAL = ", ".join(f"'{status.value}'" for status in sorted(FINAL))


@dataclass(frozen=True)
class Purged:
    """What was deleted, or for a rehearsal: what would be."""

    campaigns: int = 0
    recipients: int = 0
    jobs: int = 0
    artifacts: int = 0
    workers: int = 0

    def __add__(self, other: "Purged") -> "Purged":
        return Purged(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Age:
    """What a purge is about: what ended more than ``older_than_s`` ago, of one tenant or of all."""

    older_than_s: float
    tenant_id: UUID | None = None


def purge(engine: Engine, objects: ObjectStore, age: Age) -> Iterator[Purged]:
    """Delete what is old enough, and yield what each small transaction has deleted.

    A campaign goes once all of its jobs ended before then; single jobs one by one. It may be
    interrupted anywhere: a campaign that has lost some of its jobs is a smaller one, whose counters
    are right, and the objects of rows that are gone are noted as orphans until they are gone too.
    What a training has kept goes before its rows do.

    Raises:
        ObjectStoreError: the last transaction is undone, or its objects are left to the sweeper.
    """
    for campaign_id in _campaigns(engine, age):
        yield from _purge_jobs(engine, objects, age, campaign_id)
        yield from _purge_campaign(engine, campaign_id)
    yield from _purge_jobs(engine, objects, age, None)
    if age.tenant_id is None:
        yield _purge_workers(engine, age)


def rehearse(engine: Engine, age: Age) -> Iterator[Purged]:
    """Yield what `purge` would delete, a campaign at a time; nothing is."""
    for campaign_id in [*_campaigns(engine, age), None]:
        with engine.begin() as connection:
            row = connection.execute(
                text(
                    f"""
                    SELECT count(*) AS jobs, coalesce(sum(artifacts), 0) AS artifacts FROM (
                        SELECT (SELECT count(*) FROM artifacts WHERE job_id = jobs.id) AS artifacts
                        FROM jobs WHERE {_old(campaign_id)}
                    ) AS old
                    """  # noqa: S608 (our own words)
                ),
                _values(age, campaign_id=campaign_id),
            ).one()
            recipients = connection.execute(
                text("SELECT count(*) FROM recipients WHERE campaign_id = :campaign_id"),
                {"campaign_id": campaign_id},
            ).scalar_one()
        yield Purged(int(campaign_id is not None), recipients, row.jobs, int(row.artifacts))
    if age.tenant_id is None:
        with engine.begin() as connection:
            workers = connection.execute(
                text(f"SELECT count(*) FROM workers WHERE {_UNSEEN}"),  # noqa: S608
                _values(age),
            ).scalar_one()
        yield Purged(workers=workers)


_UNSEEN = "seen_at < clock_timestamp() - make_interval(secs => :older_than_s)"


def _old(campaign_id: UUID | None) -> str:
    """The condition on the jobs of a campaign, or of none."""
    of_campaign = "campaign_id = :campaign_id"
    if campaign_id is None:
        # Ids are in the order of age: behind an id as of then the index need not be read.
        as_of_then = "(SELECT uuidv7(make_interval(secs => -:older_than_s)))"
        of_campaign = f"campaign_id IS NULL AND id < {as_of_then}"
    return f"""{of_campaign} AND status IN ({_FINAL})
        AND finished_at < clock_timestamp() - make_interval(secs => :older_than_s)
        -- What it made is there for as long as somebody is to start from it.
        AND NOT EXISTS (
            SELECT FROM job_needs JOIN jobs AS dependant ON dependant.id = job_needs.job_id
            WHERE need_id = jobs.id AND dependant.status NOT IN ({_FINAL}))
        AND (CAST(:tenant_id AS uuid) IS NULL OR tenant_id = CAST(:tenant_id AS uuid))"""


def _values(age: Age, **more: Any) -> dict[str, Any]:
    return {"older_than_s": age.older_than_s, "tenant_id": age.tenant_id, **more}


def _campaigns(engine: Engine, age: Age) -> Iterator[UUID]:
    """The campaigns that are old enough as a whole, the oldest first."""
    after: UUID | None = None
    while True:
        with engine.begin() as connection:
            after = connection.execute(
                text(
                    f"""
                    SELECT id FROM campaigns
                    WHERE (CAST(:after AS uuid) IS NULL OR id > CAST(:after AS uuid))
                      AND (CAST(:tenant_id AS uuid) IS NULL
                           OR tenant_id = CAST(:tenant_id AS uuid))
                      -- One that is compiling has neither.
                      AND coalesce(cancelled_at, compiled_at)
                          < clock_timestamp() - make_interval(secs => :older_than_s)
                      -- The counters save counting the jobs of a campaign that is under way, but
                      -- they alone would not do.
                      AND NOT EXISTS (
                          SELECT FROM campaign_counters AS counters
                          WHERE campaign_id = campaigns.id AND status NOT IN ({_FINAL})
                          GROUP BY campaign_id HAVING sum(counters.jobs) > 0)
                      AND NOT EXISTS (
                          SELECT FROM jobs WHERE campaign_id = campaigns.id
                            AND (status NOT IN ({_FINAL}) OR finished_at
                                >= clock_timestamp() - make_interval(secs => :older_than_s)))
                    ORDER BY id LIMIT 1
                    """  # noqa: S608 (our own words)
                ),
                _values(age, after=after),
            ).scalar()
        if after is None:
            return
        yield after


def _purge_jobs(
    engine: Engine, objects: ObjectStore, age: Age, campaign_id: UUID | None
) -> Iterator[Purged]:
    """Delete the old jobs of the campaign, or of no campaign, with their artifacts."""
    after = UUID(int=0)
    while True:
        with engine.begin() as connection:
            jobs = connection.execute(
                text(
                    f"""
                    SELECT id, status FROM jobs WHERE id > :after AND {_old(campaign_id)}
                    -- One that someone asks to be tried again just now stays.
                    ORDER BY id LIMIT :most FOR UPDATE SKIP LOCKED
                    """  # noqa: S608 (our own words)
                ),
                _values(age, campaign_id=campaign_id, after=after, most=JOBS_AT_ONCE),
            ).all()
            if not jobs:
                return
            after = jobs[-1].id
            ids = [row.id for row in jobs]
            artifacts = connection.execute(
                text(
                    "DELETE FROM artifacts WHERE job_id = ANY(:ids) RETURNING object_key, claim_id"
                ),
                {"ids": ids},
            ).all()
            connection.execute(text("DELETE FROM makings WHERE job_id = ANY(:ids)"), {"ids": ids})
            connection.execute(text("DELETE FROM job_needs WHERE job_id = ANY(:ids)"), {"ids": ids})
            # While nobody can try them again, and before the rows go that lead to the objects.
            for job_id in job_events.delete(connection, ids):
                _delete_all(objects, list(objects.keys(training_prefix(job_id))))
            connection.execute(text("DELETE FROM jobs WHERE id = ANY(:ids)"), {"ids": ids})
            if campaign_id:
                statuses = Counter(JobStatus(row.status) for row in jobs)
                _shrink(connection, campaign_id, statuses)
            # Objects cannot be deleted in a transaction, so the note of them is written in it.
            noted = orphans.note_deleted(connection, {row.claim_id for row in artifacts})
        # Others may refer to the same ones. Once nobody does, nobody will: what is reused is found
        # by an artifact, which its finish holds until its own is there.
        keys = orphans.unreferenced(engine, list({row.object_key for row in artifacts}))
        _delete_all(objects, keys)
        orphans.forget(engine, noted)
        yield Purged(jobs=len(jobs), artifacts=len(artifacts))


def _delete_all(objects: ObjectStore, keys: Sequence[str]) -> None:
    for start in range(0, len(keys), OBJECTS_AT_ONCE):
        objects.delete(keys[start : start + OBJECTS_AT_ONCE])


def _shrink(connection: Connection, campaign_id: UUID, jobs: Counter[JobStatus]) -> None:
    """Keep the campaign's numbers right, in case that it is not deleted after all."""
    deltas = {(campaign_id, status): -n for status, n in jobs.items()}
    counters.add(connection, campaign_id, deltas)
    connection.execute(
        text("UPDATE campaigns SET jobs = jobs - :jobs WHERE id = :id"),
        {"id": campaign_id, "jobs": jobs.total()},
    )


def _purge_campaign(engine: Engine, campaign_id: UUID) -> Iterator[Purged]:
    """Delete a campaign that has no jobs any more, and never will again: it was compiled."""
    values = {"id": campaign_id, "most": RECIPIENTS_AT_ONCE}
    with engine.begin() as connection:
        if connection.execute(
            text("SELECT EXISTS (SELECT FROM jobs WHERE campaign_id = :id)"), values
        ).scalar():
            return
    deleted = RECIPIENTS_AT_ONCE
    while deleted == RECIPIENTS_AT_ONCE:
        with engine.begin() as connection:
            deleted = connection.execute(
                text(
                    """
                    DELETE FROM recipients WHERE id IN (
                        SELECT id FROM recipients WHERE campaign_id = :id LIMIT :most)
                    """
                ),
                values,
            ).rowcount
        if deleted:
            yield Purged(recipients=deleted)
    with engine.begin() as connection:
        for table in ("campaign_counters", "creatives"):
            connection.execute(text(f"DELETE FROM {table} WHERE campaign_id = :id"), values)  # noqa: S608
        gone = connection.execute(text("DELETE FROM campaigns WHERE id = :id"), values).rowcount
    yield Purged(campaigns=gone)


def _purge_workers(engine: Engine, age: Age) -> Purged:
    """Forget workers that have not been seen since then."""
    with engine.begin() as connection:
        gone = connection.execute(
            text(f"DELETE FROM workers WHERE {_UNSEEN}"),  # noqa: S608 (our own words)
            _values(age),
        ).rowcount
    return Purged(workers=gone)
