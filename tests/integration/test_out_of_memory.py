"""A device whose memory runs out: batches split, and the size that worked is remembered."""

import threading
import weakref
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
import torch
from sqlalchemy import Engine

from jobs.services import Services
from jobs.submissions import JobSubmission, submit_job
from storage import batch_sizes
from storage.ledger import recover
from tests.integration.batches import (
    Generating,
    allocate_too_much,
    device_sort,
    jobs,
    measure,
    submit,
)
from tests.integration.ledger_cases import execute, let_wait_end, listening, rows, value
from workers.families.diffusion import generate
from workers.families.gan import load as gan_load
from workers.runner import Runner

# diffusers 0.42 hands torch tensors to numpy 2 in its schedulers.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

ROOM = 2
"""Items that the device has room for."""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Generating:
    """A device with room for two items."""

    def fail(prompts: list[str]) -> None:
        if len(prompts) > ROOM:
            allocate_too_much()

    generating = Generating(fail)
    monkeypatch.setattr(generate, "generate", generating)
    return generating


def test_a_batch_splits_until_it_fits(
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    small: Generating,
    make_runner: Callable[..., Runner],
) -> None:
    """Every job succeeds at its first attempt, and no call is tried that cannot fit."""
    submit(services, tenant_id, *[{}] * 7)
    runner = make_runner()
    measure(engine)
    assert runner.run_next()
    assert set(jobs(engine).values()) == {("succeeded", 1, None)}
    assert small.calls == [8, 4, 2, 2, 2, 1]
    assert runner.pause_s == 0


def test_other_models_leave_first(
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    make_runner: Callable[..., Runner],
) -> None:
    """Where others are loaded, the same call is tried again without them, and nothing is learnt."""
    others: list[weakref.ref[object]] = []
    load_gan = gan_load.load

    def load(*arguments: Any) -> gan_load.Loaded:
        loaded = load_gan(*arguments)
        others.append(weakref.ref(loaded.generator))
        return loaded

    def fail(_: list[str]) -> None:
        if others[0]() is not None:
            allocate_too_much()

    monkeypatch.setattr(gan_load, "load", load)
    generating = Generating(fail)
    monkeypatch.setattr(generate, "generate", generating)
    runner = make_runner()
    submit_job(services, tenant_id, JobSubmission(kind="gan", request={}))
    assert runner.run_next()
    submit(services, tenant_id, {}, {}, {})
    measure(engine)
    assert runner.run_next()
    assert generating.calls == [4, 4]
    assert set(jobs(engine).values()) == {("succeeded", 1, None)}
    assert rows(engine, "SELECT * FROM batch_sizes WHERE size IS NOT NULL") == []


def test_the_size_is_remembered(
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    small: Generating,
    make_runner: Callable[..., Runner],
) -> None:
    """The same worker and a new one know it; a batch of another key does not suffer."""
    runner = make_runner()
    submit(services, tenant_id, *[{}] * 4)
    measure(engine)
    assert runner.run_next()
    assert [(row.device, row.size) for row in rows(engine, "SELECT * FROM batch_sizes")] == [
        (device_sort(), ROOM)
    ]
    for same_or_other in (runner, make_runner()):
        small.calls.clear()
        submit(services, tenant_id, *[{}] * 4)
        while same_or_other.run_next():
            pass
        assert small.calls == [2, 2]
    small.calls.clear()
    submit(services, tenant_id, {"steps": 3}, {"steps": 3}, {"steps": 3})
    measure(engine)
    assert runner.run_next()
    assert small.calls == [4, 2, 1]
    assert set(jobs(engine).values()) == {("succeeded", 1, None)}


def test_a_steady_worker_does_not_ask_for_it(
    services: Services, tenant_id: UUID, engine: Engine, make_runner: Callable[..., Runner]
) -> None:
    """The size is read when a worker turns to a key; a batch more of it is claim and finish."""
    runner = make_runner()
    transactions: list[int] = []

    def note(_: object) -> None:
        if threading.current_thread() is threading.main_thread():  # not the heartbeat
            transactions[-1] += 1

    submit(services, tenant_id, *[{}] * 24)
    measure(engine)
    with listening(engine, "commit", note):
        for _ in range(3):
            transactions.append(0)
            assert runner.run_next()
    assert transactions[0] > 2
    assert transactions[1:] == [2, 2]


def test_the_failed_call_holds_no_memory(
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    make_runner: Callable[..., Runner],
) -> None:
    """What a call had on the device when memory ran out is free before the next one begins."""
    held: list[weakref.ref[torch.Tensor]] = []

    def fail(prompts: list[str]) -> None:
        assert [tensor() for tensor in held] == [None] * len(held)
        if len(prompts) > 1:
            tensor = torch.zeros(8)
            held.append(weakref.ref(tensor))
            allocate_too_much()

    monkeypatch.setattr(generate, "generate", Generating(fail))
    submit(services, tenant_id, *[{}] * 4)
    runner = make_runner()
    measure(engine)
    assert runner.run_next()
    assert set(jobs(engine).values()) == {("succeeded", 1, None)}
    assert len(held) == 2


def test_a_job_that_does_not_fit_alone(
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    make_runner: Callable[..., Runner],
) -> None:
    """It waits for another attempt and says what to do; its mates succeed."""

    def fail(prompts: list[str]) -> None:
        if "huge" in prompts:
            allocate_too_much()

    monkeypatch.setattr(generate, "generate", Generating(fail))
    huge, *mates = submit(services, tenant_id, {"prompt": "huge"}, {}, {})
    assert make_runner().run_next()
    assert jobs(engine) == {
        huge: ("waiting", 1, "out_of_memory"),
        **dict.fromkeys(mates, ("succeeded", 1, None)),
    }
    message = value(engine, "SELECT error ->> 'message' FROM jobs WHERE id = :id", id=huge)
    assert "smaller size" in message


def test_memory_that_something_else_has_taken(
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    make_runner: Callable[..., Runner],
) -> None:
    """Where not even one item fits, nothing is learnt about the size, nor remembered."""
    taken = True

    def fail(_: list[str]) -> None:
        if taken:
            allocate_too_much()

    generating = Generating(fail)
    monkeypatch.setattr(generate, "generate", generating)
    submit(services, tenant_id, {}, {}, {})
    runner = make_runner()
    measure(engine)
    assert runner.run_next()
    assert set(jobs(engine).values()) == {("waiting", 1, "out_of_memory")}
    assert generating.calls == [4, 2, 1, 1, 1]
    assert runner.pause_s == 1
    taken = False
    let_wait_end(engine)
    recover.promote(engine)
    assert runner.run_next()
    assert generating.calls[5:] == [4]
    assert set(jobs(engine).values()) == {("succeeded", 2, None)}
    assert rows(engine, "SELECT * FROM batch_sizes WHERE size IS NOT NULL") == []


def test_another_error_lowers_nothing(
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    make_runner: Callable[..., Runner],
) -> None:
    """A job at which the model fails is found alone, and the next batch is a full one again."""

    def fail(prompts: list[str]) -> None:
        if "bad" in prompts:
            raise ValueError("bad")

    generating = Generating(fail)
    monkeypatch.setattr(generate, "generate", generating)
    bad, *mates = submit(services, tenant_id, {"prompt": "bad"}, {}, {})
    runner = make_runner()
    measure(engine)
    assert runner.run_next()
    assert jobs(engine) == {
        bad: ("waiting", 1, "generation_failed"),
        **dict.fromkeys(mates, ("succeeded", 1, None)),
    }
    submit(services, tenant_id, {}, {}, {})
    assert runner.run_next()
    assert generating.calls == [4, 1, 1, 1, 4]
    assert rows(engine, "SELECT * FROM batch_sizes WHERE size IS NOT NULL") == []


def test_sizes_only_fall(engine: Engine) -> None:
    """Whoever learns of less room is right; devices and batch keys have their own."""

    def read(device: str = "a", batch_key: str = "k") -> int | None:
        return batch_sizes.read(engine, device=device, batch_key=batch_key).limit

    assert read() is None
    for size, known in ((4, 4), (8, 4), (1, 1)):
        batch_sizes.lower(engine, device="a", batch_key="k", size=size)
        assert read() == known
    assert read(device="b") is None
    assert read(batch_key="l") is None


def test_a_limit_is_good_for_a_day(engine: Engine) -> None:
    """What took the memory may be gone: an old limit binds nobody, and does not lower a new one."""
    batch_sizes.lower(engine, device="a", batch_key="k", size=1)
    assert batch_sizes.read(engine, device="a", batch_key="k").limit == 1
    execute(engine, "UPDATE batch_sizes SET updated_at = updated_at - interval '25 hours'")
    assert batch_sizes.read(engine, device="a", batch_key="k").limit is None
    batch_sizes.lower(engine, device="a", batch_key="k", size=4)
    assert batch_sizes.read(engine, device="a", batch_key="k").limit == 4
