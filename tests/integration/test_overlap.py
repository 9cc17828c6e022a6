"""While a batch is on the device, the one before it is stored and the next one is claimed."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine

from jobs.services import Services
from storage.objects import ObjectStore
from tests.integration.batches import Generating, assert_on_device, jobs, submit
from tests.integration.ledger_cases import execute, value
from tests.waiting import until
from workers.families.diffusion import generate
from workers.family import Output
from workers.generation import make
from workers.runner import BEHIND, DeviceLostError, Runner

# diffusers 0.42 hands torch tensors to numpy 2 in its schedulers.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

DONE = ("succeeded", 1, None)


@dataclass
class Gate:
    """Lets uploads through to the bucket, or has them wait."""

    opened: threading.Event = field(default_factory=threading.Event)
    waiting: list[str] = field(default_factory=list)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A gate before the bucket; it is opened at the end, so that nothing waits for ever."""
    made = Gate()
    put = ObjectStore.put

    def put_when_open(self: ObjectStore, key: str, body: bytes, media_type: str) -> None:
        made.waiting.append(key)
        made.opened.wait()
        put(self, key, body, media_type)

    monkeypatch.setattr(ObjectStore, "put", put_when_open)
    yield made
    made.opened.set()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Generating:
    """What the family is asked for."""
    generating = Generating(lambda _: None)
    monkeypatch.setattr(generate, "generate", generating)
    return generating


@pytest.fixture
def small(services: Services) -> Services:
    """Services of a worker that claims one job at a time."""
    return replace(services, settings=services.settings.model_copy(update={"batch_size": 1}))


def draining(runner: Runner) -> threading.Thread:
    """A thread that works until nothing is left."""
    thread = threading.Thread(target=runner.drain)
    thread.start()
    return thread


def test_the_device_does_not_wait_for_the_bucket(
    small: Services,
    tenant_id: UUID,
    engine: Engine,
    make_runner: Callable[..., Runner],
    calls: Generating,
    *,
    gate: Gate,
) -> None:
    """Batches are made while those before them are stored, up to a bound; then all are finished."""
    submit(small, tenant_id, *[{}] * 6)
    thread = draining(make_runner(small))
    made = BEHIND + 1
    until(lambda: len(gate.waiting) == made, what="the device has gone on")
    # One more is claimed, and no other: what is made and not stored lies in memory.
    until(lambda: value(engine, "SELECT count(*) FROM jobs WHERE status = 'running'") == made + 1)
    assert calls.calls == [1] * made
    assert value(engine, "SELECT count(*) FROM jobs WHERE status = 'succeeded'") == 0
    gate.opened.set()
    thread.join()
    assert list(jobs(engine).values()) == [DONE] * 6
    assert calls.calls == [1] * 6


def test_the_next_batch_is_claimed_before_the_end(
    small: Services,
    tenant_id: UUID,
    engine: Engine,
    make_runner: Callable[..., Runner],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Towards the end of a batch, and not at its beginning, the next one is claimed."""
    submit(small, tenant_id, {"steps": 8}, {"steps": 8})
    running: list[int] = []

    def running_now(*_: object) -> int:
        return int(value(engine, "SELECT count(*) FROM jobs WHERE status = 'running'"))

    call = generate._call  # noqa: SLF001 (where a pipeline is called)

    def watched(model: Any, sibling: Any, shots: Any, progress: Any) -> Any:
        step = progress.step

        def see(done: int, total: int) -> None:
            step(done, total)
            if done == 1:
                running.append(running_now())
            if done == total and not running[1:]:
                until(lambda: running_now() == 2, what="the next one is claimed")

        progress.step = see
        return call(model, sibling, shots, progress)

    monkeypatch.setattr(generate, "_call", watched)
    make_runner(small).drain()
    assert running[0] == 1
    assert list(jobs(engine).values()) == [DONE] * 2


def test_what_may_kill_its_process_takes_no_other_claim_along(
    small: Services,
    tenant_id: UUID,
    engine: Engine,
    make_runner: Callable[..., Runner],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While a job is made whose lease has expired before, nothing is stored, nor claimed ahead."""
    first, suspect, last = submit(small, tenant_id, {}, {}, {})
    execute(engine, "UPDATE jobs SET solo = true, attempts = 1 WHERE id = :id", id=suspect)
    running: dict[UUID, int] = {}

    def running_now() -> int:
        return int(value(engine, "SELECT count(*) FROM jobs WHERE status = 'running'"))

    def watched(resident: Any, items: Any, *arguments: Any) -> Iterator[Any]:
        yield from make(resident, items, *arguments)
        if items[0].job_id == first:
            until(lambda: running_now() == 2, what="the next one is claimed")
        pause = threading.Event()
        pause.wait(0.3)  # for as long as claiming takes
        running[items[0].job_id] = running_now()

    monkeypatch.setattr("workers.runner.make", watched)
    make_runner(small).drain()
    assert running == {first: 2, suspect: 1, last: 1}
    assert jobs(engine) == {first: DONE, suspect: ("succeeded", 2, None), last: DONE}


def test_a_stop_gives_back_what_was_claimed_ahead(
    small: Services,
    tenant_id: UUID,
    engine: Engine,
    make_runner: Callable[..., Runner],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The batch under way is kept where it is done; the next one loses no attempt by it."""
    submit(small, tenant_id, {}, {}, {})
    stop = threading.Event()

    def stop_after(*arguments: Any) -> Iterator[Any]:
        yield from make(*arguments)
        until(lambda: value(engine, "SELECT count(*) FROM claims") == 2, what="one is claimed")
        stop.set()

    monkeypatch.setattr("workers.runner.make", stop_after)
    make_runner(small, stopping=stop.is_set).drain()
    assert sorted(jobs(engine).values()) == [("queued", 0, None)] * 2 + [DONE]
    assert value(engine, "SELECT count(*) FROM claims") == 0


def test_a_lost_device_gives_back_what_was_claimed_ahead(
    small: Services,
    tenant_id: UUID,
    engine: Engine,
    make_runner: Callable[..., Runner],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was made before is stored, the job that did it is tried alone, and no other is."""
    submit(small, tenant_id, {}, {}, {})

    def fail(prompts: list[str]) -> None:
        if "poison" in prompts:
            assert_on_device()

    monkeypatch.setattr(generate, "generate", Generating(fail))
    (poison,) = submit(small, tenant_id, {"prompt": "poison"})
    last = submit(small, tenant_id, {}, {})
    with pytest.raises(DeviceLostError):
        make_runner(small).drain()
    states = jobs(engine)
    assert states[poison] == ("waiting", 1, "device_error")
    assert [states[job_id] for job_id in last] == [("queued", 0, None)] * 2
    assert list(states.values()).count(DONE) == 3


def test_an_output_that_cannot_be_encoded(
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    make_runner: Callable[..., Runner],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It fails its own job, which may be tried again; its mates are stored."""
    bad, good = submit(services, tenant_id, {"prompt": "bad"}, {})
    original = generate.generate

    def broken() -> bytes:
        raise ValueError("a secret of the picture's")

    def spoil(model: Any, items: Any, context: Any) -> Iterator[Any]:
        for index, outputs in original(model, items, context):
            spoiled = items[index].request.prompt == "bad"
            yield index, [Output(broken, "image/png", {})] if spoiled else outputs

    monkeypatch.setattr(generate, "generate", spoil)
    assert make_runner(services).run_next()
    assert jobs(engine) == {bad: ("waiting", 1, "encoding_failed"), good: DONE}
