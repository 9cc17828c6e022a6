"""One batch from claim to finish, also when something around it fails."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, text

from jobs import requests
from jobs.maintenance.orphans import collect_orphans
from jobs.problems import BadInputError
from jobs.services import Services
from jobs.standalone import ports
from storage import models, objects, tenants
from storage.ledger import cancel, claim, recover
from storage.objects import ObjectStore
from tests.integration.batches import NAME, Generating, jobs, make_one_by_one, submit
from tests.integration.ledger_cases import execute, expire, value
from tests.s3_proxy import S3Proxy
from tests.waiting import until
from workers import writer
from workers.families.diffusion import generate, load
from workers.runner import Runner

# diffusers 0.42 hands torch tensors to numpy 2 in its schedulers.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_a_batch(
    services: Services, tenant_id: UUID, engine: Engine, make_runner: Callable[..., Runner]
) -> None:
    """Jobs that share a key are made together, and say who made them."""
    submit(services, tenant_id, {}, {}, {})
    runner = make_runner()
    assert runner.run_next()
    assert not runner.run_next()
    assert set(jobs(engine).values()) == {("succeeded", 1, None)}
    with engine.begin() as connection:
        rows = connection.execute(text("SELECT claim_id, facts FROM artifacts")).all()
    assert len({row.claim_id for row in rows}) == 1
    for row in rows:
        assert (row.facts["worker"], row.facts["device"]) == (NAME, "cpu")
        assert {"torch", "diffusers", "seed"} <= row.facts.keys()


def test_a_bucket_that_is_away_costs_no_attempt(
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    make_runner: Callable[..., Runner],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Jobs go back as they came, and the worker pauses, longer each time, until it is well."""
    monkeypatch.setattr(writer, "PATIENCE_S", 0)
    (nowhere,) = ports.choose(["s3"], {}).values()
    away = replace(services.objects, endpoint=f"http://127.0.0.1:{nowhere}")
    submit(services, tenant_id, {})
    runner = make_runner(replace(services, objects=away))
    pauses = []
    for _ in range(4):
        assert runner.run_next()
        assert set(jobs(engine).values()) == {("queued", 0, None)}
        pauses.append(runner.pause_s)
    assert pauses == [1, 2, 4, 8]
    assert make_runner().run_next()
    assert set(jobs(engine).values()) == {("succeeded", 1, None)}


def test_a_bucket_that_comes_back_is_waited_for(
    services: Services, tenant_id: UUID, engine: Engine, make_runner: Callable[..., Runner]
) -> None:
    """Finished pictures are kept while the bucket does not answer, and stored when it does."""
    (port,) = ports.choose(["s3"], {}).values()
    store = replace(services.objects, endpoint=f"http://127.0.0.1:{port}")
    submit(services, tenant_id, {})
    runner = make_runner(replace(services, objects=store))

    tries = []
    put = type(store).put

    def put_later(self: object, key: str, body: bytes, media_type: str) -> None:
        tries.append(key)
        put(store if len(tries) == 1 else services.objects, key, body, media_type)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(store), "put", put_later)
        assert runner.run_next()
    assert len(tries) == 2
    assert set(jobs(engine).values()) == {("succeeded", 1, None)}


def test_a_stop_keeps_what_is_made(
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    make_runner: Callable[..., Runner],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a model that cannot batch, pictures made before the stop count; the others go back."""
    make_one_by_one(monkeypatch)
    submit(services, tenant_id, {}, {}, {}, {})
    asked: list[None] = []

    def stopping() -> bool:
        asked.append(None)
        return len(asked) > 7  # in the third picture: each asks before it begins, and per step

    assert make_runner(stopping=stopping).run_next()
    assert sorted(jobs(engine).values()) == [("queued", 0, None)] * 2 + [("succeeded", 1, None)] * 2


def test_a_cancelled_mate_is_left_out(
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    make_runner: Callable[..., Runner],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job that is cancelled while its batch is made ends cancelled, its mates succeed."""
    make_one_by_one(monkeypatch)
    first, last = submit(services, tenant_id, {}, {})

    def cancel_last() -> bool:
        cancel.cancel_job(engine, tenant_id, last)
        return False

    assert make_runner(stopping=cancel_last).run_next()
    assert jobs(engine) == {first: ("succeeded", 1, None), last: ("cancelled", 1, None)}


def test_one_bad_item_does_not_harm_its_mates(
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    make_runner: Callable[..., Runner],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a model without negative prompts only the job that has one fails."""
    original = load.load

    def without_negative(*arguments: object) -> load.Loaded:
        loaded = original(*arguments)  # type: ignore[arg-type]
        capabilities = replace(loaded.capabilities, negative_prompt=False)
        return replace(loaded, capabilities=capabilities)

    monkeypatch.setattr(load, "load", without_negative)
    plain, negative = submit(services, tenant_id, {}, {"negative_prompt": "text"})
    assert make_runner().run_next()
    assert jobs(engine) == {
        plain: ("succeeded", 1, None),
        negative: ("failed", 1, "unsupported"),
    }


def test_a_model_that_cannot_be_loaded(
    services: Services, tenant_id: UUID, engine: Engine, make_runner: Callable[..., Runner]
) -> None:
    """Its jobs wait for another attempt and say why, without the worker's paths."""
    job_ids = submit(services, tenant_id, {}, {})
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE jobs SET request = jsonb_set(request, '{model}', :name)"),
            {"name": f'"gone-{uuid4()}"'},
        )
    runner = make_runner()
    assert runner.run_next()
    assert jobs(engine) == dict.fromkeys(job_ids, ("waiting", 1, "model_not_loaded"))
    assert runner.pause_s > 0


def test_one_bad_job_keeps_nobody_waiting(
    services: Services,
    tenant_id: UUID,
    make_runner: Callable[..., Runner],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a job that fails alone the worker goes on at once; after a second one it pauses."""

    def fail(_: list[str]) -> None:
        raise RuntimeError("not this one")

    monkeypatch.setattr(generate, "generate", Generating(fail))
    runner = make_runner()
    submit(services, tenant_id, {})
    assert runner.run_next()
    assert runner.pause_s == 0
    submit(services, tenant_id, {})
    assert runner.run_next()
    assert runner.pause_s > 0


def test_a_model_whose_licence_has_ended(
    services: Services, tenant_id: UUID, engine: Engine, make_runner: Callable[..., Runner]
) -> None:
    """A job that has waited for too long is not made, and a retry of it is refused."""
    (job_id,) = submit(services, tenant_id, {})
    with engine.begin() as connection:
        card = models.BUILT_IN["debug-diffusion"]
        lent = replace(card, name="default/lent", tenant_id=tenant_id)
        models.add(connection, replace(lent, licence_until=date(2020, 1, 1)))
        connection.execute(
            text("UPDATE jobs SET request = jsonb_set(request, '{model}', '\"default/lent\"')")
        )
    assert make_runner().run_next()
    assert jobs(engine) == {job_id: ("failed", 1, "licence_ended")}
    with pytest.raises(BadInputError, match="the licence of 'default/lent' ended on 2020-01-01"):
        requests.retry_job(services, tenant_id, job_id)


def test_a_model_of_another_tenant(
    services: Services, tenant_id: UUID, engine: Engine, make_runner: Callable[..., Runner]
) -> None:
    """A job that has passed no door makes nothing with it, nor does it harm those that may."""
    card = models.BUILT_IN["debug-diffusion"]
    with engine.begin() as connection:
        acme = tenants.ensure(connection, "acme")
        models.add(connection, replace(card, name="acme/mugs", tenant_id=acme))
    (good,) = submit(services, acme, {"model": "acme/mugs"})
    (bad,) = submit(services, acme, {"model": "acme/mugs"})
    execute(engine, "UPDATE jobs SET tenant_id = :other WHERE id = :id", other=tenant_id, id=bad)
    runner = make_runner()
    while runner.run_next():
        pass
    assert jobs(engine) == {good: ("succeeded", 1, None), bad: ("failed", 1, "unknown_model")}


def test_a_bug_of_ours_leaves_no_batch_hanging(
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    make_runner: Callable[..., Runner],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever is raised where nobody expects it, every job of the batch is accounted for."""

    def broken(*_: object) -> None:
        raise RuntimeError("secret prompt")

    monkeypatch.setattr("workers.runner.make", broken)
    (job_id,) = submit(services, tenant_id, {})
    assert make_runner().run_next()
    assert jobs(engine) == {job_id: ("waiting", 1, "internal")}
    with engine.begin() as connection:
        message = connection.execute(text("SELECT error ->> 'message' FROM jobs")).scalar_one()
    assert "secret" not in message


FAULTS: dict[str, Callable[[S3Proxy], None]] = {
    "503": lambda proxy: proxy.refuse_puts(3),
    "cut": lambda proxy: proxy.cut_puts(3),
    "stored, not said": lambda proxy: proxy.cut_answers(3),
    "slow": lambda proxy: proxy.delay_answers(0.3),
    "a lost part": lambda proxy: proxy.lose_parts(2),
}


@pytest.fixture
def proxy(services: Services, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Proxy]:
    """A way to the bucket that misbehaves on order; everything goes up in parts."""
    monkeypatch.setattr(objects, "MULTIPART_FROM_BYTES", 1)
    assert services.objects.endpoint
    with S3Proxy(services.objects.endpoint) as running:
        yield running


def through(services: Services, proxy: S3Proxy) -> Services:
    """The same services, the bucket by way of the proxy."""
    return replace(services, objects=replace(services.objects, endpoint=proxy.endpoint))


@pytest.mark.parametrize("order", FAULTS.values(), ids=FAULTS)
def test_a_bucket_with_a_fault(
    services: Services,
    tenant_id: UUID,
    make_runner: Callable[..., Runner],
    proxy: S3Proxy,
    order: Callable[[S3Proxy], None],
) -> None:
    """Faults that pass cost time and nothing else: every picture is stored as it was recorded."""
    submit(services, tenant_id, {}, {})
    order(proxy)
    assert make_runner(through(services, proxy)).run_next()
    assert set(jobs(services.engine).values()) == {("succeeded", 1, None)}
    with services.engine.begin() as connection:
        rows = connection.execute(text("SELECT object_key, sha256 FROM artifacts")).all()
        assert not connection.execute(text("SELECT FROM orphans")).all()
    assert len(rows) == 2
    for row in rows:
        assert objects.sha256_hex(services.objects.get(row.object_key)) == row.sha256


@pytest.mark.parametrize("order", ["refuse_puts", "cut_answers"])
def test_a_bucket_whose_fault_stays(
    services: Services,
    tenant_id: UUID,
    make_runner: Callable[..., Runner],
    proxy: S3Proxy,
    order: str,
) -> None:
    """The jobs go back without losing an attempt, and what was stored of them is collected."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "PATIENCE_S", 0.2)
        submit(services, tenant_id, {}, {})
        getattr(proxy, order)(1000)
        assert make_runner(through(services, proxy)).run_next()
    assert set(jobs(services.engine).values()) == {("queued", 0, None)}
    proxy.behave()
    assert make_runner(through(services, proxy)).run_next()
    assert set(jobs(services.engine).values()) == {("succeeded", 1, None)}
    collect_orphans(services.engine, services.objects)
    with services.engine.begin() as connection:
        rows = connection.execute(text("SELECT object_key, claim_id FROM artifacts")).all()
        (lost,) = connection.execute(text("SELECT claim_id FROM orphans")).scalars()
    assert list(services.objects.keys(objects.claim_prefix(lost))) == []
    kept = services.objects.keys(objects.claim_prefix(rows[0].claim_id))
    assert set(kept) == {row.object_key for row in rows}


def test_a_stop_while_the_bucket_is_slow(
    services: Services,
    tenant_id: UUID,
    make_runner: Callable[..., Runner],
    proxy: S3Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stop does not wait for an upload that hangs: its job goes back, and loses nothing."""
    monkeypatch.setattr(writer, "STOP_S", 0.3)
    monkeypatch.setattr(objects, "MULTIPART_FROM_BYTES", objects.MIB)
    submit(services, tenant_id, {})
    proxy.delay_answers(30)
    runner = make_runner(through(services, proxy), stopping=lambda: bool(proxy.seen))
    began_s = time.monotonic()
    assert runner.run_next()
    runner.close()
    assert time.monotonic() - began_s < 20
    assert set(jobs(services.engine).values()) == {("queued", 0, None)}


def test_what_is_uploaded_after_the_lease_was_taken(
    services: Services,
    tenant_id: UUID,
    make_runner: Callable[..., Runner],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker that learns too late that its lease is lost leaves nothing behind for good."""
    submit(services, tenant_id, {})
    engine, put, renew = services.engine, ObjectStore.put, claim.renew
    lost: list[UUID] = []
    refused: list[UUID] = []

    def spy(engine: Engine, claim_id: UUID) -> claim.Lease:
        lease = renew(engine, claim_id)
        refused.extend([] if lease.held else [claim_id])
        return lease

    def beat_twice() -> bool:
        execute(engine, f"NOTIFY {claim.CANCEL_CHANNEL}, '{lost[0]}'")
        return len(refused) > 1  # the first answer has been taken note of by then

    def put_late(store: ObjectStore, key: str, body: bytes, media_type: str) -> None:
        lost.append(value(engine, "SELECT id FROM claims"))
        expire(engine, *lost)
        assert recover.recover_claim(engine)
        assert collect_orphans(engine, services.objects) == 0
        until(beat_twice)
        put(store, key, body, media_type)

    monkeypatch.setattr(claim, "renew", spy)
    monkeypatch.setattr(ObjectStore, "put", put_late)
    assert make_runner().run_next()
    assert collect_orphans(engine, services.objects) == 1
    assert set(jobs(engine).values()) == {("queued", 1, None)}
