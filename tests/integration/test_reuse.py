"""Identical jobs are made once: in a batch, one after the other, and by several workers at once."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine

from jobs import requests
from jobs.campaigns.file import from_mapping
from jobs.export import export_campaign
from jobs.maintenance.orphans import collect_orphans
from jobs.services import Services
from jobs.submissions import submit_campaign
from storage import models, orphans, retention, tenants
from storage.ledger import cancel, recover
from storage.objects import ObjectStore
from storage.retention import Age
from tests.integration.batches import Generating, jobs, runners, submit
from tests.integration.ledger_cases import (
    check_books,
    execute,
    expire,
    fan_out,
    let_wait_end,
    rows,
    together,
    value,
)
from workers.families.diffusion import generate, load
from workers.runner import Runner

# diffusers 0.42 hands torch tensors to numpy 2 in its schedulers.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

DONE = ("succeeded", 1, None)
SAME: dict[str, object] = {"seed": 1}
Runners = Callable[..., Runner]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> "Calls":
    """What the device is asked to make."""
    return Calls(monkeypatch)


class Calls:
    """The size of each call of the family; ``then`` is done in the middle of the next one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.then: Callable[[], None] | None = None
        self._generating = Generating(self._act)
        monkeypatch.setattr(generate, "generate", self._generating)

    @property
    def sizes(self) -> list[int]:
        """How many pictures each had."""
        return self._generating.calls

    def _act(self, _: list[str]) -> None:
        then, self.then = self.then, None
        if then:
            then()


def artifacts(engine: Engine) -> dict[UUID, Any]:
    """The one artifact of each job."""
    found = rows(engine, "SELECT * FROM artifacts")
    by_job = {row.job_id: row for row in found}
    assert len(by_job) == len(found)
    return by_job


def wake(engine: Engine) -> None:
    """Let what waits for a time be queued again."""
    let_wait_end(engine)
    recover.promote(engine)


def test_in_one_batch(
    services: Services, tenant_id: UUID, engine: Engine, make_runner: Runners, calls: Calls
) -> None:
    """The same twice is one picture with two artifacts; another seed is another picture."""
    first, other, again = submit(services, tenant_id, {"seed": 1}, {"seed": 2}, {"seed": 1})
    assert make_runner().run_next()
    assert jobs(engine) == dict.fromkeys((first, other, again), DONE)
    assert calls.sizes == [2]
    found = artifacts(engine)
    one, two = found[first], found[again]
    assert one.object_key == two.object_key != found[other].object_key
    assert (one.sha256, one.size_bytes, one.claim_id) == (two.sha256, two.size_bytes, two.claim_id)
    assert two.facts == {**one.facts, "reused_from": str(first)}
    assert not rows(engine, "SELECT FROM orphans")
    check_books(engine)


def test_one_after_the_other(
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    make_runner: Runners,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was made before is made no more, and the model not even loaded for it."""
    (first,) = submit(services, tenant_id, {"seed": 1})
    assert make_runner().run_next()

    def refuse(*_: object) -> load.Loaded:
        raise AssertionError("loaded")

    monkeypatch.setattr(load, "load", refuse)
    again, more = submit(services, tenant_id, {"seed": 1}, {"seed": 1})
    runner = make_runner()
    assert runner.run_next()
    assert jobs(engine) == dict.fromkeys((first, again, more), DONE)
    assert runner.pause_s == 0
    assert len({row.object_key for row in artifacts(engine).values()}) == 1
    view = requests.job(services, tenant_id, again)
    assert view.artifacts[0].facts["reused_from"] == str(first)
    assert services.objects.get(view.artifacts[0].object_key)


def test_what_starts_from_a_file(
    services: Services, tenant_id: UUID, engine: Engine, make_runner: Runners, calls: Calls
) -> None:
    """It counts by its bytes, whoever made it: those that reuse the same are the same to others."""
    first, again = submit(services, tenant_id, {"seed": 1}, {"seed": 1})
    made_of = [
        *({"image": f"job:{job_id}", "seed": 2} for job_id in (first, again)),
        {"image": "sample:mug.png", "seed": 2},
    ]
    ends = submit(services, tenant_id, *made_of)
    runner = make_runner()
    while runner.run_next():
        pass
    assert jobs(engine) == dict.fromkeys((first, again, *ends), DONE)
    assert sum(calls.sizes) == 3
    one, two, other = (artifacts(engine)[job_id] for job_id in ends)
    assert one.object_key == two.object_key != other.object_key
    assert one.facts["inputs"] == two.facts["inputs"]


def test_what_is_not_shared(
    services: Services, tenant_id: UUID, engine: Engine, make_runner: Runners, calls: Calls
) -> None:
    """Derived seeds cost nothing, who forbids it gets and gives nothing, and no other tenant."""
    with engine.begin() as connection:
        other = tenants.ensure(connection, "other")
    submit(services, tenant_id, {}, {})
    runner = make_runner()
    assert runner.run_next()
    assert calls.sizes == [2]
    submit(services, tenant_id, {"seed": 1, "reuse": False})
    assert runner.run_next()
    assert not rows(engine, "SELECT FROM makings")
    submit(services, tenant_id, {"seed": 1}, {"seed": 1, "reuse": False})
    submit(services, other, {"seed": 1}, {"seed": 1})
    assert runner.run_next()
    assert calls.sizes == [2, 1, 2, 1]
    submit(services, other, {"seed": 1})
    submit(services, tenant_id, {"seed": 1})
    assert runner.run_next()
    assert calls.sizes == [2, 1, 2, 1]
    tenant_of = {row.id: row.tenant_id for row in rows(engine, "SELECT id, tenant_id FROM jobs")}
    keys: dict[UUID, set[str]] = {tenant_id: set(), other: set()}
    for job_id, artifact in artifacts(engine).items():
        assert artifact.tenant_id == tenant_of[job_id]
        keys[artifact.tenant_id].add(artifact.object_key)
    assert not keys[tenant_id] & keys[other]
    assert (len(keys[tenant_id]), len(keys[other])) == (5, 1)


def test_a_campaign_whose_prompts_name_the_product(
    services: Services, tenant_id: UUID, engine: Engine, make_runner: Runners, calls: Calls
) -> None:
    """It makes a picture per product; claims grow, so that there is something to make in each."""
    products = [*["mug", "cup"] * 20, "pot", "bowl"]
    campaign = from_mapping(
        {
            "name": "Products",
            "recipients": {
                "id": "id",
                "rows": [{"id": str(n), "product": name} for n, name in enumerate(products)],
            },
            "creatives": [
                {
                    "name": "hero",
                    "prompt": "{{ product }}",
                    "size": "64x64",
                    "steps": 2,
                    "seed": 3,
                }
            ],
        }
    )
    campaign_id = submit_campaign(services, tenant_id, campaign)
    fan_out(engine)
    settings = services.settings.model_copy(update={"batch_size": 4})
    runner = make_runner(replace(services, settings=settings))
    claims = 0
    while runner.run_next():
        claims += 1
    assert set(jobs(engine).values()) == {DONE}
    assert sum(calls.sizes) == 4
    assert claims < len(products) / 4
    assert len({row.object_key for row in artifacts(engine).values()}) == 4
    check_books(engine)
    view = requests.campaign(services, tenant_id, campaign_id)
    folder = Path(services.settings.cache_dir) / f"export-{uuid4()}"
    exported = export_campaign(services, view, tenant_id, folder)
    assert exported.manifest.read_text("utf-8").count('"reused_from"') == len(products) - 4


def test_two_workers_at_once(
    services: Services, tenant_id: UUID, engine: Engine, make_runner: Runners, calls: Calls
) -> None:
    """What another worker is making is waited for, at no cost of an attempt."""
    (first,) = submit(services, tenant_id, {"seed": 1})
    waiting: list[UUID] = []

    def meet() -> None:
        waiting.extend(submit(services, tenant_id, {"seed": 1}))
        other = make_runner()
        assert other.run_next()
        assert jobs(engine)[waiting[0]] == ("waiting", 0, None)
        assert other.pause_s == 0
        assert not other.run_next()

    calls.then = meet
    runner = make_runner()
    assert runner.run_next()
    wake(engine)
    assert runner.run_next()
    assert jobs(engine) == dict.fromkeys((first, *waiting), DONE)
    assert calls.sizes == [1]
    assert not rows(engine, "SELECT FROM orphans")


def test_workers_that_drain_a_queue_together(
    services: Services, tenant_id: UUID, engine: Engine, calls: Calls
) -> None:
    """Whichever of them comes first to each of three pictures, no more than three are made."""
    settings = services.settings.model_copy(update={"batch_size": 2})
    few = replace(services, settings=settings)

    def drain(runner: Runner) -> None:
        while value(engine, "SELECT count(*) FROM jobs WHERE finished_at IS NULL"):
            if not runner.run_next():
                wake(engine)

    # Each with a heartbeat of its own.
    with runners(few, engine) as one, runners(few, engine) as two:
        workers = [make() for make in (one, two)]
        for worker in workers:  # one after the other, as no process loads two models at once
            submit(services, tenant_id, {})
            assert worker.run_next()
        same: list[dict[str, object]] = [{"seed": seed} for seed in (1, 2, 3)]
        submit(services, tenant_id, *same * 4)
        together(*(partial(drain, worker) for worker in workers))
    assert {status for status, _, _ in jobs(engine).values()} == {"succeeded"}
    assert {attempts for _, attempts, _ in jobs(engine).values()} == {1}
    assert sum(calls.sizes) == 2 + 3
    check_books(engine)


@pytest.mark.parametrize("how", ["fails", "is cancelled", "loses its lease"])
def test_a_maker_that_comes_to_nothing(
    services: Services, tenant_id: UUID, make_runner: Runners, calls: Calls, how: str
) -> None:
    """One of those that wait for it makes it, and the others refer to that."""
    engine = services.engine
    (first,) = submit(services, tenant_id, {"seed": 1})
    waiting: list[UUID] = []

    def meet() -> None:
        waiting.extend(submit(services, tenant_id, {"seed": 1}, {"seed": 1}))
        assert make_runner().run_next()
        match how:
            case "fails":
                execute(engine, "UPDATE jobs SET max_attempts = 1 WHERE id = :id", id=first)
                raise RuntimeError("not this one")
            case "is cancelled":
                cancel.cancel_job(engine, tenant_id, first)
            case _:
                (claim_id,) = value(engine, "SELECT array_agg(id) FROM claims")
                expire(engine, claim_id)
                assert recover.recover_claim(engine)

    calls.then = meet
    runner = make_runner()
    assert runner.run_next()
    before = jobs(engine)
    assert [before[job_id] for job_id in waiting] == [("waiting", 0, None)] * 2
    wake(engine)
    while runner.run_next():
        pass
    after = jobs(engine)
    assert [after[job_id] for job_id in waiting] == [DONE] * 2
    keys = {row.object_key for row in artifacts(engine).values()}
    assert len(keys) == 1
    if how != "loses its lease":
        # Asked for again, it finds what has been made in its place.
        made_calls = len(calls.sizes)
        cancel.retry_job(engine, tenant_id, first)
        assert runner.run_next()
        assert jobs(engine)[first] == ("succeeded", 2, None)
        assert len(calls.sizes) == made_calls
    assert {row.object_key for row in artifacts(engine).values()} == keys
    check_books(engine)


def test_mates_share_the_fate_of_the_one_that_is_made(
    services: Services, tenant_id: UUID, engine: Engine, make_runner: Runners, calls: Calls
) -> None:
    """They fail as they would in the same call, and wait for another attempt."""
    same = submit(services, tenant_id, {"seed": 1}, {"seed": 1})

    def fail() -> None:
        raise RuntimeError("not now")

    calls.then = fail
    runner = make_runner()
    assert runner.run_next()
    assert jobs(engine) == dict.fromkeys(same, ("waiting", 1, "generation_failed"))
    wake(engine)
    assert runner.run_next()
    assert jobs(engine) == dict.fromkeys(same, ("succeeded", 2, None))
    assert calls.sizes == [1, 1]


def test_a_licence_that_has_ended(
    services: Services, tenant_id: UUID, engine: Engine, make_runner: Runners
) -> None:
    """What must not be made any more must not be had from an earlier job either."""
    with engine.begin() as connection:
        models.add(connection, replace(models.BUILT_IN["debug-diffusion"], name="lent"))
    (first,) = submit(services, tenant_id, {"seed": 1, "model": "lent"})
    assert make_runner().run_next()
    (again,) = submit(services, tenant_id, {"seed": 1, "model": "lent"})
    execute(engine, "UPDATE models SET licence_until = :day", day=date(2020, 1, 1))
    assert make_runner().run_next()
    assert jobs(engine) == {first: DONE, again: ("failed", 1, "licence_ended")}


@pytest.fixture
def bucket(services: Services) -> Iterator[ObjectStore]:
    """The bucket, in which only this test's artifacts lie."""
    services.objects.delete(list(services.objects.keys("artifacts/")))
    yield services.objects
    services.objects.delete(list(services.objects.keys("artifacts/")))


def purge(engine: Engine, bucket: ObjectStore, *job_ids: UUID) -> None:
    """Let these have ended long ago, and delete what is that old."""
    execute(
        engine,
        "UPDATE jobs SET finished_at = CASE WHEN id = ANY(:ids) THEN now() - interval '1 s'"
        " ELSE now() + interval '1 day' END WHERE finished_at IS NOT NULL",
        ids=list(job_ids),
    )
    gone = list(retention.purge(engine, bucket, Age(0)))
    assert sum(each.jobs for each in gone) == len(job_ids)


def test_objects_stay_for_whoever_refers_to_them(
    services: Services,
    tenant_id: UUID,
    make_runner: Runners,
    calls: Calls,
    bucket: ObjectStore,
) -> None:
    """Neither a purge of the maker nor a look for orphans takes what another job refers to."""
    engine = services.engine
    first, second, third = submit(services, tenant_id, *[SAME] * 3)
    runner = make_runner()
    assert runner.run_next()
    (key,) = bucket.keys("artifacts/")
    claim_id = artifacts(engine)[first].claim_id
    purge(engine, bucket, first)
    assert list(bucket.keys("artifacts/")) == [key]
    assert not rows(engine, "SELECT FROM makings")
    with engine.begin() as connection:
        orphans.note(connection, claim_id)
    assert collect_orphans(engine, bucket) == 0
    assert bucket.get(key)
    # Nobody is known to have made it: it is made anew, and that is what others refer to then.
    (anew,) = submit(services, tenant_id, {"seed": 1})
    assert runner.run_next()
    assert artifacts(engine)[anew].object_key != key
    assert calls.sizes == [1, 1]
    # Both at once, and a purge that dies before it has deleted the object.
    with pytest.MonkeyPatch.context() as patch:

        def die(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(ObjectStore, "delete", die)
        with pytest.raises(KeyboardInterrupt):
            purge(engine, bucket, second, third)
    assert key in bucket.keys("artifacts/")
    execute(engine, "UPDATE orphans SET look_at = clock_timestamp()")
    assert collect_orphans(engine, bucket) == 1
    assert list(bucket.keys("artifacts/")) == [artifacts(engine)[anew].object_key]


def test_the_last_one_takes_the_object_along(
    services: Services, tenant_id: UUID, make_runner: Runners, bucket: ObjectStore
) -> None:
    """One after the other, whichever goes last."""
    same = submit(services, tenant_id, *[SAME] * 3)
    assert make_runner().run_next()
    for job_id in (same[1], same[0]):
        purge(services.engine, bucket, job_id)
        assert len(list(bucket.keys("artifacts/"))) == 1
    purge(services.engine, bucket, same[2])
    assert not list(bucket.keys("artifacts/"))
