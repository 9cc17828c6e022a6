"""One batch from claim to finish, also when something around it fails."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import MappingProxyType
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, text

from jobs.services import Services
from jobs.standalone import ports
from jobs.submissions import JobSubmission, submit_job
from storage.ledger import cancel
from workers import writer
from workers.families.diffusion import load
from workers.family import Device
from workers.pulse import Pulse
from workers.runner import Runner

# diffusers 0.42 hands torch tensors to numpy 2 in its schedulers.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NAME = "cpu-0@test"


@pytest.fixture
def make_runner(services: Services, engine: Engine) -> Iterator[Callable[..., Runner]]:
    """Runners on the test's services, closed at the end."""
    pulse = Pulse(engine, name=NAME, pool="default", device="cpu-0", every_s=1)
    runners: list[Runner] = []

    def make(opened: Services = services, stopping: Callable[[], bool] = bool) -> Runner:
        runner = Runner(
            opened.settings,
            opened.engine,
            opened.objects,
            pulse,
            Device("cpu"),
            name=NAME,
            stopping=stopping,
        )
        runners.append(runner)
        return runner

    pulse.start()
    yield make
    for runner in runners:
        runner.close()
    pulse.stop()


def submit(services: Services, tenant_id: UUID, *requests: dict[str, object]) -> list[UUID]:
    """Small pictures, as single jobs that share a batch."""
    same = {"size": "64x64", "steps": 2}
    submissions = [
        JobSubmission(kind="image", request={"prompt": "mug", **same, **request})
        for request in requests
    ]
    return [submit_job(services, tenant_id, submission) for submission in submissions]


def jobs(engine: Engine) -> dict[UUID, tuple[str, int, str | None]]:
    """Status, attempts and error code of every job."""
    with engine.begin() as connection:
        rows = connection.execute(text("SELECT id, status, attempts, error FROM jobs")).all()
    return {row.id: (row.status, row.attempts, row.error and row.error["code"]) for row in rows}


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
    monkeypatch.setattr(load, "BATCHES", MappingProxyType({}))
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
    monkeypatch.setattr(load, "BATCHES", MappingProxyType({}))
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
        return replace(loaded, arguments=loaded.arguments - {"negative_prompt"})

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
    """The job waits for another attempt and says why, without the worker's paths."""
    (job_id,) = submit(services, tenant_id, {})
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE jobs SET request = jsonb_set(request, '{model}', :name)"),
            {"name": f'"gone-{uuid4()}"'},
        )
    runner = make_runner()
    assert runner.run_next()
    assert jobs(engine) == {job_id: ("waiting", 1, "model_not_loaded")}
    assert runner.pause_s > 0


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
