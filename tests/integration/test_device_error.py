"""A device that fails for good: the process ends, and another finds the job that did it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import Engine

from jobs.devices import Slot
from jobs.services import Services
from jobs.standalone import Servers
from storage.ledger import recover
from tests.integration.batches import (
    Generating,
    assert_on_device,
    jobs,
    make_one_by_one,
    measure,
    submit,
)
from tests.integration.ledger_cases import execute, let_wait_end, rows, value
from tests.waiting import until
from workers.families.diffusion import generate, load
from workers.loop import DEVICE_LOST
from workers.runner import DeviceLostError, Runner

# diffusers 0.42 hands torch tensors to numpy 2 in its schedulers.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SLOT = Slot("cpu-0", "cpu", "")
POOL = "failing"


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Generating:
    """A device that fails at the prompt ``poison``."""

    def fail(prompts: list[str]) -> None:
        if "poison" in prompts:
            assert_on_device()

    generating = Generating(fail)
    monkeypatch.setattr(generate, "generate", generating)
    return generating


def solo(engine: Engine) -> set[UUID]:
    """The jobs that are to be claimed alone."""
    return {row.id for row in rows(engine, "SELECT id FROM jobs WHERE solo")}


def test_the_whole_call_is_tried_again_job_by_job(
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    failing: Generating,
    make_runner: Callable[..., Runner],
) -> None:
    """Nothing else is tried in this process; in the next one the mates succeed, each alone."""
    mate, poison, other = submit(services, tenant_id, {}, {"prompt": "poison"}, {})
    runner = make_runner()
    measure(engine)
    with pytest.raises(DeviceLostError):
        runner.run_next()
    assert failing.calls == [4]
    assert set(jobs(engine).values()) == {("waiting", 1, "device_error")}
    assert solo(engine) == {mate, poison, other}
    assert runner.pause_s == 1
    let_wait_end(engine)
    recover.promote(engine)
    ended = 0
    for _ in range(3):
        try:
            assert make_runner().run_next()
        except DeviceLostError:
            ended += 1
    assert ended == 1
    assert jobs(engine) == {
        mate: ("succeeded", 2, None),
        poison: ("waiting", 2, "device_error"),
        other: ("succeeded", 2, None),
    }


def test_what_was_made_before_is_kept(
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    failing: Generating,
    make_runner: Callable[..., Runner],
    *,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Calls that went well are stored; those that were not begun go back as they came."""
    make_one_by_one(monkeypatch)
    first, poison, last = submit(services, tenant_id, {}, {"prompt": "poison"}, {})
    with pytest.raises(DeviceLostError):
        make_runner().run_next()
    assert jobs(engine) == {
        first: ("succeeded", 1, None),
        poison: ("waiting", 1, "device_error"),
        last: ("queued", 0, None),
    }
    assert solo(engine) == {poison}


def test_a_device_that_fails_while_loading(
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    make_runner: Callable[..., Runner],
) -> None:
    """The process ends as well, and no job is suspected."""
    monkeypatch.setattr(load, "load", lambda *_: assert_on_device())
    submit(services, tenant_id, {}, {})
    with pytest.raises(DeviceLostError):
        make_runner().run_next()
    assert set(jobs(engine).values()) == {("waiting", 1, "device_error")}
    assert not solo(engine)


def give_out(engine: Engine) -> None:
    """Move what is queued to the worker's pool, all at once; poison has one attempt."""
    execute(
        engine,
        "UPDATE jobs SET pool = :pool, max_attempts = "
        "CASE request ->> 'prompt' WHEN 'poison' THEN 1 ELSE 3 END WHERE status = 'queued'",
        pool=POOL,
    )


def start_worker(services: Services, servers: Servers, log: Path) -> subprocess.Popen[bytes]:
    """The worker of `failing_worker` on a pool of its own. It looks for work by itself once."""
    environment = {
        **os.environ,
        **servers.environment,
        **SLOT.environment,
        "PRESSWORK_CACHE_DIR": str(services.settings.cache_dir),
        "PRESSWORK_IDLE_LOOK_S": "600",
        "PRESSWORK_POOL": f"others, {POOL}",
        "OMP_NUM_THREADS": "1",
    }
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.integration.failing_worker", "--slot", SLOT.name],
            stdout=output,
            stderr=output,
            env=environment,
        )


def test_the_child_ends_and_another_takes_over(
    services: Services, servers: Servers, tenant_id: UUID, engine: Engine, tmp_path: Path
) -> None:
    """It ends in its own look and in a wake-up's task alike; its parent and the queue go on."""
    log = tmp_path / "worker.log"

    def wait_for(line: str, times: int) -> None:
        until(lambda: log.read_text().count(line) == times, what=f"{line!r}; see {log}")

    (by_look,) = submit(services, tenant_id, {"prompt": "poison"})
    give_out(engine)
    worker = start_worker(services, servers, log)
    try:
        wait_for("is up on", 2)
        assert jobs(engine) == {by_look: ("failed", 1, "device_error")}

        by_wake_up, mate = submit(services, tenant_id, {"prompt": "poison"}, {})
        give_out(engine)
        services.wake_ups.send(POOL)
        wait_for("starting anew", 2)
        assert "claiming nothing for 2 s" in log.read_text(), "the pause outlasts the child"
        assert jobs(engine)[by_wake_up] == ("failed", 1, "device_error")
        assert jobs(engine)[mate] == ("waiting", 1, "device_error")
        let_wait_end(engine)
        recover.promote(engine)
        until(lambda: jobs(engine)[mate] == ("succeeded", 2, None), what=f"the mate; see {log}")

        assert log.read_text().count(f"exitcode {DEVICE_LOST}'\n") == 2
        until(lambda: services.wake_ups.waiting(POOL) == 0, what="the wake-up's end")
        assert value(engine, "SELECT count(*) FROM claims") == 0
        assert worker.poll() is None
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
