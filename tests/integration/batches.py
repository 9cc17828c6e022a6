"""What the tests of a worker's batches share: runners, jobs that share a batch, and their ends."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
import torch
from sqlalchemy import Engine, text

from jobs.services import Services
from jobs.submissions import JobSubmission, submit_job
from storage import batch_sizes
from storage.batch_sizes import Measured
from workers.families.diffusion import generate, load
from workers.families.diffusion.capabilities import CAPABILITIES
from workers.family import Device, Item
from workers.pulse import Pulse
from workers.runner import Runner

NAME = "cpu-0@test"


def make_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the debug model cannot batch."""
    table = {name: replace(each, max_batch=1) for name, each in CAPABILITIES.items()}
    monkeypatch.setattr(load, "CAPABILITIES", table)


@contextmanager
def runners(services: Services, engine: Engine) -> Iterator[Callable[..., Runner]]:
    """A way to make runners on the test's services; they are closed at the end."""
    # For pictures this small one is faster, and on a busy machine several wait for each other.
    torch.set_num_threads(1)
    pulse = Pulse(engine, name=NAME, pool="default", device="cpu-0", every_s=1)
    made: list[Runner] = []

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
        made.append(runner)
        return runner

    pulse.start()
    try:
        yield make
    finally:
        for runner in made:
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


def measure(engine: Engine, size: int = 8) -> None:
    """From now on workers know that calls of ``size`` are best for whatever has been submitted."""
    measured = Measured({size: 1.0}, None, str(torch.__version__))
    with engine.begin() as connection:
        keys = connection.execute(text("SELECT DISTINCT batch_key FROM jobs")).scalars().all()
    for batch_key in keys:
        batch_sizes.keep(engine, device=device_sort(), batch_key=batch_key, measured=measured)


def device_sort() -> str:
    """What the sizes of these runners' calls are kept under."""
    return f"cpu x{torch.get_num_threads()} float32"


def jobs(engine: Engine) -> dict[UUID, tuple[str, int, str | None]]:
    """Status, attempts and error code of every job."""
    with engine.begin() as connection:
        rows = connection.execute(text("SELECT id, status, attempts, error FROM jobs")).all()
    return {row.id: (row.status, row.attempts, row.error and row.error["code"]) for row in rows}


class Generating:
    """Stands before the family's own code: notes the size of each call, and may fail it."""

    def __init__(self, fail: Callable[[list[str]], None]) -> None:
        self.calls: list[int] = []
        self._fail = fail
        self._generate = generate.generate

    def __call__(self, model: Any, items: list[Item], context: Any) -> Any:
        """Call ``fail`` with the prompts, then make the pictures."""
        self.calls.append(len(items))
        self._fail([str(getattr(item.request, "prompt", "")) for item in items])
        yield from self._generate(model, items, context)


def allocate_too_much() -> None:
    """Fail as the CPU's allocator does when memory has run out."""
    torch.empty(2**50)


def assert_on_device() -> None:
    """Fail as CUDA does when a kernel's assertion has ended its context."""
    raise torch.AcceleratorError("CUDA error: device-side assert triggered")
