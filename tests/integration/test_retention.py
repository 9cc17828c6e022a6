"""What is old goes, rows and objects; what is not, or not finished, stays whole."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, Engine

from jobs.maintenance.orphans import collect_orphans
from jobs.services import Services
from jobs.standalone import ports
from storage import orphans, retention, tenants
from storage.ledger import cancel, finish, submit
from storage.lifecycle import JobStatus
from storage.objects import ObjectStore, ObjectStoreError
from storage.retention import Age, Purged
from tests.integration.ledger_cases import (
    at_statement,
    broken,
    check_books,
    counts,
    execute,
    finish_all,
    ids,
    new_campaign,
    recipient_rows,
    rows,
    statuses,
    submit_campaign,
    submit_jobs,
    take_some,
    together,
    value,
)
from tests.integration.test_orphans import let_pass, referenced, upload_all

DAY_S = 86400.0
MONTH = Age(30 * DAY_S)


@pytest.fixture
def objects(services: Services) -> Iterator[ObjectStore]:
    """The bucket, in which only this test's artifacts lie."""
    services.objects.delete(list(services.objects.keys("artifacts/")))
    yield services.objects
    services.objects.delete(list(services.objects.keys("artifacts/")))


def do_all(engine: Engine, objects: ObjectStore) -> None:
    """Let every queued job succeed, its output in the bucket."""
    while value(engine, "SELECT count(*) FROM jobs WHERE status = 'queued'"):
        batch = take_some(engine)
        finish.finish(engine, batch.claim_id, upload_all(objects, batch))


def age(engine: Engine, days: float) -> None:
    """Let all that there is have happened so many days earlier."""
    # An id says when it was made, and nothing refers to a single job but its artifacts.
    execute(engine, "ALTER TABLE artifacts DROP CONSTRAINT fk_artifacts_job_id")
    execute(
        engine,
        """
        WITH moved AS (
            SELECT id, uuidv7(- interval '1 day' * :days) AS older FROM jobs
            WHERE created_at > clock_timestamp() - interval '1 day'
        ), artifact AS (
            UPDATE artifacts SET job_id = older FROM moved WHERE job_id = moved.id
        )
        UPDATE jobs SET id = older, created_at = created_at - interval '1 day' * :days,
            finished_at = finished_at - interval '1 day' * :days
        FROM moved WHERE jobs.id = moved.id
        """,
        days=days,
    )
    execute(
        engine,
        "ALTER TABLE artifacts ADD CONSTRAINT fk_artifacts_job_id"
        " FOREIGN KEY (job_id) REFERENCES jobs (id)",
    )
    for column in ("created_at", "compiled_at", "cancelled_at"):
        execute(
            engine,
            f"UPDATE campaigns SET {column} = {column} - interval '1 day' * :days",  # noqa: S608
            days=days,
        )


def purge(engine: Engine, objects: ObjectStore, age: Age = MONTH) -> Purged:
    """Purge to the end; what was deleted, which is what a rehearsal had said."""
    expected = sum(retention.rehearse(engine, age), Purged())
    deleted = sum(retention.purge(engine, objects, age), Purged())
    assert deleted == expected
    return deleted


def left(engine: Engine) -> dict[str, int]:
    """How many rows there are in the tables that hold customers' work."""
    tables = ("campaigns", "creatives", "recipients", "campaign_counters", "jobs", "artifacts")
    found = {table: value(engine, f"SELECT count(*) FROM {table}") for table in tables}  # noqa: S608
    return {table: count for table, count in found.items() if count}


def test_old_work_goes(engine: Engine, tenant_id: UUID, objects: ObjectStore) -> None:
    """Of an old campaign and old single jobs nothing is left, neither rows nor objects."""
    submit_campaign(engine, tenant_id, 3, "a", "b")
    submit_jobs(engine, tenant_id, 2)
    do_all(engine, objects)
    submit_jobs(engine, tenant_id, 1)
    finish_all(engine, take_some(engine), lambda job_id: broken(job_id, retry=False))
    execute(engine, "DELETE FROM orphans")
    age(engine, 31)
    assert purge(engine, objects) == Purged(campaigns=1, recipients=3, jobs=9, artifacts=8)
    assert left(engine) == {}
    assert list(objects.keys("artifacts/")) == []
    assert rows(engine, "SELECT * FROM orphans") == [], "there is nothing to look for"


def test_work_that_ended_lately_stays(
    engine: Engine, tenant_id: UUID, objects: ObjectStore
) -> None:
    """The cutoff counts from the end of the last job, and a campaign goes as a whole."""
    campaign_id = submit_campaign(engine, tenant_id, 3)
    submit_jobs(engine, tenant_id, 1)
    do_all(engine, objects)
    age(engine, 31)
    execute(
        engine,
        "UPDATE jobs SET finished_at = clock_timestamp() - interval '29 days' WHERE id IN"
        " (SELECT DISTINCT ON (campaign_id) id FROM jobs ORDER BY campaign_id, id DESC)",
    )
    before = left(engine)
    assert purge(engine, objects) == Purged()
    assert left(engine) == before
    assert set(objects.keys("artifacts/")) == referenced(engine)
    assert counts(engine, campaign_id) == {JobStatus.SUCCEEDED: 3}


@pytest.mark.parametrize("status", ["queued", "running", "waiting"])
def test_unfinished_work_stays(
    engine: Engine, tenant_id: UUID, objects: ObjectStore, status: str
) -> None:
    """A campaign with one unfinished job stays as it is, also where its counters know of none."""
    submit_campaign(engine, tenant_id, 3)
    submit_jobs(engine, tenant_id, 1, "single")
    finish_all(engine, take_some(engine, 2, prefer="a"))
    batch = take_some(engine, prefer="a")
    if status == "queued":
        execute(
            engine,
            "UPDATE jobs SET status = 'queued', claim_id = NULL WHERE batch_key = 'a'"
            " AND status = 'running'",
        )
    elif status == "waiting":
        finish_all(engine, batch, lambda job_id: broken(job_id, retry=True))
    age(engine, 31)
    execute(engine, "DELETE FROM campaign_counters WHERE status <> 'succeeded'")
    before = left(engine)
    assert purge(engine, objects) == Purged()
    assert left(engine) == before


def test_a_campaign_that_is_not_compiled_stays(
    engine: Engine, tenant_id: UUID, objects: ObjectStore
) -> None:
    """A campaign without jobs is not a finished one, unless it was cancelled before it had any."""
    for _ in range(2):
        campaign_id = submit.submit_campaign(engine, new_campaign(tenant_id), recipient_rows(2))
    cancel.cancel_campaign(engine, tenant_id, campaign_id)
    age(engine, 31)
    assert purge(engine, objects) == Purged(campaigns=1, recipients=2)
    assert rows(engine, "SELECT status FROM campaigns") == [("compiling",)]


def test_a_cancelled_campaign_goes(engine: Engine, tenant_id: UUID, objects: ObjectStore) -> None:
    """Cancelled jobs count as ended, and what was made before the cancel goes with them."""
    campaign_id = submit_campaign(engine, tenant_id, 3)
    batch = take_some(engine, 1)
    finish.finish(engine, batch.claim_id, upload_all(objects, batch))
    cancel.cancel_campaign(engine, tenant_id, campaign_id)
    cancel.cancel_flagged(engine)
    age(engine, 31)
    assert purge(engine, objects) == Purged(campaigns=1, recipients=3, jobs=3, artifacts=1)
    assert left(engine) == {}


def test_one_tenant(engine: Engine, tenant_id: UUID, objects: ObjectStore) -> None:
    """Where a tenant is named, the others keep everything."""
    with engine.begin() as connection:
        other_id = tenants.ensure(connection, "other")
    for owner in (tenant_id, other_id):
        submit_campaign(engine, owner, 2)
        submit_jobs(engine, owner, 1)
    do_all(engine, objects)
    age(engine, 31)
    purged = purge(engine, objects, replace(MONTH, tenant_id=other_id))
    assert purged == Purged(campaigns=1, recipients=2, jobs=3, artifacts=3)
    assert {row.tenant_id for row in rows(engine, "SELECT tenant_id FROM jobs")} == {tenant_id}
    assert {row.tenant_id for row in rows(engine, "SELECT tenant_id FROM campaigns")} == {tenant_id}
    assert set(objects.keys("artifacts/")) == referenced(engine)
    assert len(referenced(engine)) == 3
    check_books(engine)


def test_small_steps_that_may_be_interrupted(
    engine: Engine, tenant_id: UUID, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every transaction the books are right, and the next purge goes on from there."""
    monkeypatch.setattr(retention, "JOBS_AT_ONCE", 2)
    monkeypatch.setattr(retention, "RECIPIENTS_AT_ONCE", 2)
    campaign_id = submit_campaign(engine, tenant_id, 5)
    submit_jobs(engine, tenant_id, 3)
    do_all(engine, objects)
    age(engine, 31)
    steps = 0
    total = Purged()
    while (part := sum(islice(retention.purge(engine, objects, MONTH), 1), Purged())) != Purged():
        steps, total = steps + 1, total + part
        check_books(engine)
        assert set(objects.keys("artifacts/")) == referenced(engine)
        assert sum(counts(engine, campaign_id).values()) == sum(
            row.jobs for row in rows(engine, "SELECT jobs FROM campaigns")
        )
    assert total == Purged(campaigns=1, recipients=5, jobs=8, artifacts=8)
    assert steps > 7
    assert left(engine) == {}


def test_a_crash_before_the_objects_are_deleted(
    engine: Engine, tenant_id: UUID, objects: ObjectStore
) -> None:
    """Rows go first; the objects of a purge that did not get so far are collected as orphans."""
    submit_jobs(engine, tenant_id, 2)
    do_all(engine, objects)
    age(engine, 31)
    port = ports.choose(["s3"], {})["s3"]
    away = replace(objects, endpoint=f"http://127.0.0.1:{port}", tries=1)
    with pytest.raises(ObjectStoreError):
        purge(engine, away)
    assert left(engine) == {}
    assert collect_orphans(engine, objects) == 0, "the purge may be about to do it"
    let_pass(engine, orphans.TAKEN_S)
    assert collect_orphans(engine, objects) == 2
    assert list(objects.keys("artifacts/")) == []
    assert rows(engine, "SELECT * FROM orphans") == []


def test_a_claim_that_others_share(engine: Engine, tenant_id: UUID, objects: ObjectStore) -> None:
    """Jobs that were made in one batch with purged ones keep their objects."""
    submit_campaign(engine, tenant_id, 2)
    submit_jobs(engine, tenant_id, 1)
    do_all(engine, objects)
    age(engine, 31)
    execute(engine, "UPDATE jobs SET finished_at = now() WHERE campaign_id IS NULL")
    assert purge(engine, objects).artifacts == 2
    assert set(objects.keys("artifacts/")) == referenced(engine)
    assert len(referenced(engine)) == 1


def test_a_claim_that_is_noted_stays_noted(
    engine: Engine, tenant_id: UUID, objects: ObjectStore
) -> None:
    """What is looked for because of something else goes on being looked for."""
    submit_jobs(engine, tenant_id, 2)
    batch = take_some(engine)
    first, second = upload_all(objects, batch)
    finish.finish(engine, batch.claim_id, [first, broken(second.job_id, retry=False)])
    age(engine, 31)
    assert purge(engine, objects) == Purged(jobs=2, artifacts=1)
    assert len(list(objects.keys("artifacts/"))) == 1
    let_pass(engine, orphans.TAKEN_S)
    assert collect_orphans(engine, objects) == 1


def test_a_look_during_a_purge(engine: Engine, tenant_id: UUID, objects: ObjectStore) -> None:
    """A sweeper that saw the artifacts just before they went looks once more."""
    submit_jobs(engine, tenant_id, 1)
    batch = take_some(engine)
    finish.finish(engine, batch.claim_id, upload_all(objects, batch))
    with engine.begin() as connection:
        orphans.note(connection, batch.claim_id)
    execute(engine, "UPDATE orphans SET looks = :last", last=len(orphans.LOOK_AFTER_S) - 1)
    [taken] = orphans.take(engine, 10)
    age(engine, 31)
    purge(engine, objects)
    orphans.looked(engine, taken)
    assert rows(engine, "SELECT claim_id FROM orphans") == [(batch.claim_id,)]


def test_a_retry_at_the_same_moment(engine: Engine, tenant_id: UUID, objects: ObjectStore) -> None:
    """A job that is asked for again while its campaign is purged stays, with what it needs."""
    campaign_id = submit_campaign(engine, tenant_id, 3)
    batch = take_some(engine)
    failed, *others = ids(batch)
    outcomes = [out for out in upload_all(objects, batch) if out.job_id in others]
    finish.finish(engine, batch.claim_id, [broken(failed, retry=False), *outcomes])
    execute(engine, "UPDATE jobs SET finished_at = finished_at - interval '31 days'")
    execute(engine, "UPDATE campaigns SET compiled_at = compiled_at - interval '31 days'")

    def retry(_: Connection) -> None:
        assert cancel.retry_job(engine, tenant_id, failed)

    with at_statement(engine, "FROM jobs WHERE id >", retry):
        deleted = sum(retention.purge(engine, objects, MONTH), Purged())
    assert deleted == Purged(jobs=2, artifacts=2)
    assert statuses(engine) == [JobStatus.QUEUED]
    assert counts(engine, campaign_id) == {JobStatus.QUEUED: 1}
    assert take_some(engine).jobs[0].part is not None


def test_purges_at_once(
    engine: Engine, tenant_id: UUID, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two purges share the work, and neither counts what the other has deleted."""
    monkeypatch.setattr(retention, "JOBS_AT_ONCE", 3)
    for _ in range(3):
        submit_campaign(engine, tenant_id, 7)
    do_all(engine, objects)
    age(engine, 31)

    def one() -> Purged:
        return sum(retention.purge(engine, objects, MONTH), Purged())

    total = sum(together(one, one), Purged())
    assert total == Purged(campaigns=3, recipients=21, jobs=21, artifacts=21)
    assert left(engine) == {}
    assert list(objects.keys("artifacts/")) == []


def test_workers_that_are_gone(engine: Engine, objects: ObjectStore) -> None:
    """Names of workers that were not seen for so long are forgotten, others are not."""
    for name, days in (("old", 31), ("new", 29)):
        execute(
            engine,
            "INSERT INTO workers (name, pool, device, pid, seen_at)"
            " VALUES (:name, 'default', 'cpu-0', 1, now() - interval '1 day' * :days)",
            name=name,
            days=days,
        )
    assert purge(engine, objects, replace(MONTH, tenant_id=uuid4())) == Purged()
    assert purge(engine, objects) == Purged(workers=1)
    assert rows(engine, "SELECT name FROM workers") == [("new",)]
