"""Objects that nobody refers to are collected, and no other ever is."""

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, Engine

from jobs.maintenance import orphans as service
from jobs.maintenance.orphans import collect_orphans
from jobs.services import Services
from jobs.standalone import ports
from storage import orphans
from storage.ledger import cancel, claim, finish, recover
from storage.ledger.claim import Batch
from storage.ledger.finish import NewArtifact, Outcome, Released, Succeeded
from storage.lifecycle import JobStatus
from storage.objects import ObjectStore, artifact_key, claim_prefix, sha256_hex
from tests.integration.ledger_cases import (
    LIMIT_S,
    at_commit,
    at_statement,
    broken,
    check_books,
    execute,
    expire,
    finish_all,
    ids,
    lose_commit,
    lose_commit_answer,
    made,
    rows,
    submit_campaign,
    submit_jobs,
    take,
    take_some,
    together,
    value,
)

retryable = partial(broken, retry=True)
hopeless = partial(broken, retry=False)


@pytest.fixture
def objects(services: Services) -> Iterator[ObjectStore]:
    """The bucket, in which only this test's artifacts lie."""
    empty(services.objects)
    yield services.objects
    empty(services.objects)


def empty(objects: ObjectStore) -> None:
    """Delete every artifact's object."""
    objects.delete(list(objects.keys("artifacts/")))


def uploaded(
    objects: ObjectStore, claim_id: UUID, job_id: UUID, content: bytes = b"x"
) -> Succeeded:
    """A success whose output lies in the bucket."""
    digest = sha256_hex(content)
    key = artifact_key(claim_id, job_id, 0, digest, "image/png")
    objects.put(key, content, "image/png")
    return Succeeded(job_id, [NewArtifact(key, "image/png", digest, len(content), {})])


def upload_all(objects: ObjectStore, batch: Batch) -> list[Succeeded]:
    """The same for all jobs of a batch."""
    return [uploaded(objects, batch.claim_id, job_id) for job_id in ids(batch)]


def noted(engine: Engine) -> list[UUID]:
    """The claims that are to be looked at."""
    return [row.claim_id for row in rows(engine, "SELECT claim_id FROM orphans ORDER BY noted_at")]


def due(engine: Engine) -> list[UUID]:
    """The claims that are to be looked at now."""
    found = rows(engine, "SELECT claim_id FROM orphans WHERE look_at <= clock_timestamp()")
    return [row.claim_id for row in found]


def let_pass(engine: Engine, seconds: float) -> None:
    """Let every note have been written so much earlier."""
    execute(
        engine,
        "UPDATE orphans SET noted_at = noted_at - make_interval(secs => :s),"
        " look_at = look_at - make_interval(secs => :s)",
        s=seconds,
    )


def lose(engine: Engine, batch: Batch) -> None:
    """Take the batch's lease, which has expired."""
    expire(engine, batch.claim_id)
    assert recover.recover_claim(engine)


def referenced(engine: Engine) -> set[str]:
    """The keys of all artifacts."""
    return {row.object_key for row in rows(engine, "SELECT object_key FROM artifacts")}


@pytest.mark.parametrize("outcome", [retryable, hopeless, Released])
def test_a_finish_that_leaves_something_is_noted(
    engine: Engine, tenant_id: UUID, outcome: Callable[[UUID], Outcome]
) -> None:
    """Where not all of a batch has succeeded, something may have been uploaded for the rest."""
    submit_jobs(engine, tenant_id, 2)
    batch = take_some(engine)
    first, second = ids(batch)
    finish.finish(engine, batch.claim_id, [made(first), outcome(second)])
    assert due(engine) == [batch.claim_id]


def test_a_success_is_not_noted(engine: Engine, tenant_id: UUID) -> None:
    """A batch of which all succeeded costs nothing more, also when it is finished in parts."""
    submit_jobs(engine, tenant_id, 3)
    batch = take_some(engine)
    first, *others = ids(batch)
    finish.finish(engine, batch.claim_id, [made(first)])
    finish.finish(engine, batch.claim_id, [made(job_id) for job_id in others])
    assert noted(engine) == []


@pytest.mark.parametrize("fault", [lose_commit, lose_commit_answer])
def test_a_success_whose_commit_broke_is_not_noted(
    engine: Engine, tenant_id: UUID, fault: Callable[[Connection], None]
) -> None:
    """A finish that finds itself done already leaves nothing behind."""
    submit_jobs(engine, tenant_id, 2)
    batch = take_some(engine)
    with at_commit(engine, fault):
        finish_all(engine, batch)
    assert noted(engine) == []


def test_a_cancelled_success_is_noted(engine: Engine, tenant_id: UUID) -> None:
    """The output of a job that was cancelled meanwhile is nobody's."""
    submit_jobs(engine, tenant_id, 1)
    batch = take_some(engine)
    cancel.cancel_job(engine, tenant_id, *ids(batch))
    finish_all(engine, batch)
    assert noted(engine) == [batch.claim_id]


def test_a_lost_lease_is_noted_and_again_by_its_late_finish(
    engine: Engine, tenant_id: UUID
) -> None:
    """A worker that uploads after the first looks, and then tries to finish, makes it due again."""
    submit_jobs(engine, tenant_id, 1)
    zombie = take_some(engine)
    lose(engine, zombie)
    assert due(engine) == [zombie.claim_id]
    execute(engine, "UPDATE orphans SET looks = 3, look_at = clock_timestamp() + interval '1 h'")
    assert finish_all(engine, zombie) == {}
    assert due(engine) == [zombie.claim_id]
    assert value(engine, "SELECT looks FROM orphans") == 0


def test_a_note_that_is_not_committed_with_its_finish(engine: Engine, tenant_id: UUID) -> None:
    """Note and finish come about together, or neither does."""
    submit_jobs(engine, tenant_id, 1)
    batch = take_some(engine)

    def fail(_: Connection) -> None:
        raise RuntimeError("killed")

    with suppress(RuntimeError), at_commit(engine, fail):
        finish_all(engine, batch, Released)
    assert noted(engine) == []
    assert claim.renew(engine, batch.claim_id).held


def test_only_what_nobody_refers_to_is_deleted(
    engine: Engine, tenant_id: UUID, objects: ObjectStore
) -> None:
    """Of a batch of which one job was cancelled, its object goes and those of its mates stay."""
    submit_jobs(engine, tenant_id, 3)
    batch = take_some(engine)
    outcomes = upload_all(objects, batch)
    cancel.cancel_job(engine, tenant_id, ids(batch)[1])
    finish.finish(engine, batch.claim_id, outcomes)
    assert collect_orphans(engine, objects) == 1
    assert set(objects.keys("artifacts/")) == referenced(engine)
    assert len(referenced(engine)) == 2


def test_the_objects_of_a_lost_claim(engine: Engine, tenant_id: UUID, objects: ObjectStore) -> None:
    """What a lost worker left is collected; what its heir made of the same jobs is not."""
    submit_jobs(engine, tenant_id, 2)
    zombie = take_some(engine)
    upload_all(objects, zombie)
    lose(engine, zombie)
    while heir := take(engine):  # one by one: they are solo now
        finish.finish(engine, heir.claim_id, upload_all(objects, heir))
    assert collect_orphans(engine, objects) == 2
    assert set(objects.keys("artifacts/")) == referenced(engine)
    assert len(referenced(engine)) == 2


def test_a_claim_that_is_alive_is_let_be(
    engine: Engine, tenant_id: UUID, objects: ObjectStore
) -> None:
    """While jobs of it still run, nothing below its prefix is touched, referenced or not."""
    submit_jobs(engine, tenant_id, 2)
    batch = take_some(engine)
    first, second = upload_all(objects, batch)
    finish.finish(engine, batch.claim_id, [Released(first.job_id)])
    assert due(engine) == [batch.claim_id]
    assert collect_orphans(engine, objects) == 0
    assert due(engine) == [], "or it would be in the way of others at each pass"
    finish.finish(engine, batch.claim_id, [second])
    let_pass(engine, 60)
    assert collect_orphans(engine, objects) == 1
    assert set(objects.keys("artifacts/")) == referenced(engine) == {second.artifacts[0].object_key}


def test_a_finish_at_the_same_moment(engine: Engine, tenant_id: UUID, objects: ObjectStore) -> None:
    """A sweeper that comes by just before a finish is committed does not touch its objects."""
    submit_jobs(engine, tenant_id, 2)
    batch = take_some(engine)
    first, second = upload_all(objects, batch)
    finish.finish(engine, batch.claim_id, [Released(first.job_id)])
    deleted: list[int] = []

    def sweep(_: Connection) -> None:
        deleted.append(collect_orphans(engine, objects))

    with at_commit(engine, sweep):
        finish.finish(engine, batch.claim_id, [second])
    assert deleted == [0]
    assert objects.get(second.artifacts[0].object_key)


@pytest.mark.parametrize("part", ["UPDATE orphans", "SELECT object_key"])
def test_a_finish_in_the_middle_of_a_look(
    engine: Engine, tenant_id: UUID, objects: ObjectStore, part: str
) -> None:
    """Either the finish comes first and its objects stay, or the look does and it is refused."""
    submit_jobs(engine, tenant_id, 2)
    batch = take_some(engine)
    first, second = upload_all(objects, batch)
    finish.finish(engine, batch.claim_id, [Released(first.job_id)])
    if part == "SELECT object_key":
        lose(engine, batch)
    answers: list[dict[UUID, JobStatus]] = []

    def finish_now(_: Connection) -> None:
        with ThreadPoolExecutor(1) as thread:
            answer = thread.submit(finish.finish, engine, batch.claim_id, [second])
            answers.append(answer.result(LIMIT_S))

    with at_statement(engine, part, finish_now):
        collect_orphans(engine, objects)
    kept = {second.artifacts[0].object_key} if answers[0] else set()
    assert set(objects.keys("artifacts/")) == referenced(engine) == kept
    assert bool(answers[0]) == (part == "UPDATE orphans")


def test_looks_are_repeated(
    engine: Engine, tenant_id: UUID, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a lost worker uploads between two looks is found by the next, until a day has passed."""
    submit_jobs(engine, tenant_id, 1)
    zombie = take_some(engine)
    lose(engine, zombie)
    before_s = 0
    for number, after_s in enumerate(orphans.LOOK_AFTER_S):
        uploaded(objects, zombie.claim_id, ids(zombie)[0], content=bytes([number]))
        let_pass(engine, after_s - before_s - 5 if number else 0)
        if number:
            assert collect_orphans(engine, objects) == 0, "not yet"
            let_pass(engine, 5)
        assert collect_orphans(engine, objects) == 1
        before_s = after_s
    assert noted(engine) == []
    assert list(objects.keys("artifacts/")) == []


def test_a_note_during_a_look(engine: Engine, objects: ObjectStore) -> None:
    """A claim that is noted again while it is looked at is due again afterwards."""
    claim_id = uuid4()
    with engine.begin() as connection:
        orphans.note(connection, claim_id)
    [taken] = orphans.take(engine, 10)
    with engine.begin() as connection:
        orphans.note(connection, claim_id)
    orphans.looked(engine, taken)
    assert due(engine) == [claim_id]
    assert value(engine, "SELECT looks FROM orphans") == 0


def test_a_bucket_that_is_away(
    engine: Engine, tenant_id: UUID, objects: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is forgotten while the bucket does not answer; the log says so once a pass."""
    for _ in range(3):
        submit_jobs(engine, tenant_id, 1)
        batch = take_some(engine)
        upload_all(objects, batch)
        finish_all(engine, batch, hopeless)
    port = ports.choose(["s3"], {})["s3"]
    away = replace(objects, endpoint=f"http://127.0.0.1:{port}", tries=1)
    assert collect_orphans(engine, away) == 0
    assert len(due(engine)) == 3
    assert caplog.text.count("the bucket does not answer") == 1
    assert collect_orphans(engine, objects) == 3
    assert list(objects.keys("artifacts/")) == []


def test_a_sweeper_that_dies_over_a_look(
    engine: Engine, tenant_id: UUID, objects: ObjectStore
) -> None:
    """Another one does it after a while."""
    submit_jobs(engine, tenant_id, 1)
    batch = take_some(engine)
    upload_all(objects, batch)
    lose(engine, batch)
    assert [noted.claim_id for noted in orphans.take(engine, 10)] == [batch.claim_id]
    assert collect_orphans(engine, objects) == 0
    let_pass(engine, orphans.TAKEN_S)
    assert collect_orphans(engine, objects) == 1


def test_a_pass_is_bounded(
    engine: Engine, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass looks at a portion, those that have waited longest, and leaves the others due."""
    monkeypatch.setattr(service, "CLAIMS_A_PASS", 2)
    claims = [uuid4() for _ in range(5)]
    for claim_id in claims:
        with engine.begin() as connection:
            orphans.note(connection, claim_id)
    left = []
    for _ in range(3):
        collect_orphans(engine, objects)
        left.append(set(due(engine)))
    assert left == [set(claims[2:]), set(claims[4:]), set()]


def test_more_objects_than_one_call_deletes(
    engine: Engine, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deletion goes on in portions until nothing is left."""
    monkeypatch.setattr(service, "DELETED_AT_ONCE", 2)
    claim_id = uuid4()
    for _ in range(5):
        uploaded(objects, claim_id, uuid4())
    with engine.begin() as connection:
        orphans.note(connection, claim_id)
    assert collect_orphans(engine, objects) == 5
    assert list(objects.keys(claim_prefix(claim_id))) == []


def test_sweepers_at_once(engine: Engine, tenant_id: UUID, objects: ObjectStore) -> None:
    """However many sweepers look, each object is deleted once, and no referenced one."""
    for _ in range(12):
        submit_jobs(engine, tenant_id, 2)
        batch = take_some(engine)
        first, second = upload_all(objects, batch)
        finish.finish(engine, batch.claim_id, [first, hopeless(second.job_id)])
    assert sum(together(*[lambda: collect_orphans(engine, objects)] * 4)) == 12
    assert set(objects.keys("artifacts/")) == referenced(engine)
    assert len(referenced(engine)) == 12


def work(engine: Engine, objects: ObjectStore, seed: int) -> None:
    """Work until the queue is empty, with all that can go wrong going wrong."""
    chance = random.Random(seed)  # noqa: S311
    while batch := take(engine, 4):
        outcomes: list[Outcome] = []
        for success in upload_all(objects, batch):
            ends: list[Callable[[UUID], Outcome]] = [Released, retryable]
            other = chance.choice(ends)(success.job_id)
            outcomes.append(success if chance.random() < 0.5 else other)
        if chance.random() < 0.3:
            expire(engine, batch.claim_id)
        finish.finish(engine, batch.claim_id, outcomes[:2])
        finish.finish(engine, batch.claim_id, outcomes[2:])
        recover.promote(engine)


def sweep(engine: Engine, objects: ObjectStore, over: threading.Event) -> None:
    """Take leases and collect orphans until it is over."""
    while not over.is_set():
        recover.recover_claim(engine)
        collect_orphans(engine, objects)


def test_whatever_happens_no_referenced_object_goes(
    engine: Engine, tenant_id: UUID, objects: ObjectStore
) -> None:
    """Workers that lose, stop, fail and finish, zombies and two sweepers, all at the same time."""
    submit_campaign(engine, tenant_id, 60)
    over = threading.Event()
    with ThreadPoolExecutor(2) as threads:
        sweepers = [threads.submit(sweep, engine, objects, over) for _ in range(2)]
        try:
            together(*[partial(work, engine, objects, seed) for seed in range(4)])
        finally:
            over.set()
        for sweeper in sweepers:
            sweeper.result(LIMIT_S)
    while recover.recover_claim(engine):
        pass
    assert referenced(engine) <= set(objects.keys("artifacts/")), "a referenced object is gone"
    let_pass(engine, 2 * 86400)
    while due(engine):
        collect_orphans(engine, objects)
    assert set(objects.keys("artifacts/")) == referenced(engine) != set()
    check_books(engine)
