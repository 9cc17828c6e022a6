"""Events of jobs in SQL: in order, by their claim, for their tenant, until the job is deleted."""

import threading
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine

from jobs.events import EventName
from jobs.services import Services
from jobs.standalone import ports
from storage import job_events, retention, tenants
from storage.job_events import NewEvent
from storage.ledger import finish, recover
from storage.lifecycle import JobStatus
from storage.objects import ObjectStoreError, training_prefix
from storage.retention import Age, Purged
from tests.integration.ledger_cases import (
    at_commit,
    connection_of,
    expire,
    made,
    rows,
    statuses,
    take_some,
    wait_until_blocked,
)
from tests.integration.trainings import DATA, begun, tell, told


def test_in_their_order(engine: Engine, tenant_id: UUID) -> None:
    """Events come back as they were told, a page at a time, with the job's status."""
    job_id, claim_id = begun(engine, tenant_id)
    tell(engine, job_id, claim_id, *DATA)
    assert [(event.name, event.data) for event in told(engine, tenant_id, job_id)] == [
        *DATA.items()
    ]
    seen: list[str] = []
    after = 0
    with engine.begin() as connection:
        while course := job_events.after(connection, tenant_id, job_id, after, 4):
            assert course.status is JobStatus.RUNNING
            if not course.events:
                break
            seen += [event.name for event in course.events]
            after = course.events[-1].id
    assert seen == list(DATA)


def test_what_sql_cannot_hold(engine: Engine, tenant_id: UUID) -> None:
    """Infinite numbers and odd characters keep nothing from being written, nor the time it was."""
    job_id, claim_id = begun(engine, tenant_id)
    data = {
        "step": 1,
        "loss": float("nan"),
        "files": ["a\0b"],
        "caption": "\ud83d",
        "deep": {"x": float("inf")},
    }
    assert job_events.add(
        engine, claim_id, job_id, [NewEvent("sample", data, age_s=90), NewEvent("ended", {})]
    )
    sample, ended = told(engine, tenant_id, job_id)
    assert sample.data == {
        "step": 1,
        "loss": None,
        "files": ["a\ufffdb"],
        "caption": "?",
        "deep": {"x": None},
    }
    assert timedelta(seconds=89) < ended.at - sample.at < timedelta(seconds=91)


def test_only_by_the_claim_that_has_the_job(engine: Engine, tenant_id: UUID) -> None:
    """Who lost the lease writes nothing any more, nor does who has finished; the heir does."""
    job_id, lost = begun(engine, tenant_id)
    tell(engine, job_id, lost, EventName.STARTED)
    expire(engine, lost)
    assert recover.recover_claim(engine)
    assert not job_events.add(engine, lost, job_id, [NewEvent("progress", {})])
    heir = take_some(engine).claim_id
    assert not job_events.add(engine, lost, job_id, [NewEvent("progress", {})])
    tell(engine, job_id, heir, EventName.CHECKPOINT)
    finish.finish(engine, heir, [made(job_id)])
    assert not job_events.add(engine, heir, job_id, [NewEvent("progress", {})])
    assert [event.name for event in told(engine, tenant_id, job_id)] == ["started", "checkpoint"]


def test_all_are_there_once_the_job_is_over(engine: Engine, tenant_id: UUID) -> None:
    """A finish waits for events that are being written: whoever sees it misses none of them."""
    job_id, claim_id = begun(engine, tenant_id)
    over: list[JobStatus] = []
    thread = threading.Thread(
        target=lambda: over.extend(finish.finish(engine, claim_id, [made(job_id)]).values())
    )

    def finish_meanwhile(connection: Connection) -> None:
        thread.start()
        wait_until_blocked(engine, by=connection_of(connection).info.backend_pid)
        assert statuses(engine, job_id) == [JobStatus.RUNNING]

    with at_commit(engine, finish_meanwhile):
        tell(engine, job_id, claim_id, EventName.ENDED)
    thread.join()
    assert over == [JobStatus.SUCCEEDED]
    assert [event.name for event in told(engine, tenant_id, job_id)] == ["ended"]


def test_another_tenants_job_is_not_found(engine: Engine, tenant_id: UUID) -> None:
    """Neither events nor a single event of it, whoever knows their ids."""
    job_id, claim_id = begun(engine, tenant_id)
    tell(engine, job_id, claim_id, EventName.STARTED)
    [event] = told(engine, tenant_id, job_id)
    with engine.begin() as connection:
        other = tenants.ensure(connection, "other")
        assert job_events.find(connection, tenant_id, job_id, event.id) == event
        assert job_events.find(connection, other, job_id, event.id) is None
        assert job_events.after(connection, other, job_id, 0, 10) is None


def test_they_go_with_their_job(services: Services, tenant_id: UUID) -> None:
    """A purge takes a training's events and all that it has kept in the bucket, and no other's."""
    engine, objects = services.engine, services.objects
    job_id, claim_id = begun(engine, tenant_id)
    kept_id, kept_claim = begun(engine, tenant_id)
    for each, claim in ((job_id, claim_id), (kept_id, kept_claim)):
        tell(engine, each, claim, EventName.STARTED, EventName.CHECKPOINT)
        for name in ("checkpoints/1/state.json", "logs/events"):
            objects.put(f"{training_prefix(each)}{name}", b"x", "application/json")
    finish.finish(engine, claim_id, [made(job_id)])
    away = replace(objects, endpoint=f"http://127.0.0.1:{ports.choose(['s3'], {})['s3']}", tries=1)
    with pytest.raises(ObjectStoreError):
        list(retention.purge(engine, away, Age(0)))
    assert len(told(engine, tenant_id, job_id)) == 2, "or nothing would lead to the objects"
    purged = sum(retention.purge(engine, objects, Age(0)), Purged())
    assert purged == Purged(jobs=1, artifacts=1)
    assert {row.job_id for row in rows(engine, "SELECT job_id FROM job_events")} == {kept_id}
    assert list(objects.keys(training_prefix(job_id))) == []
    assert len(list(objects.keys(training_prefix(kept_id)))) == 2
