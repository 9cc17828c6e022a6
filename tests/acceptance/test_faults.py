"""Work survives the death of its worker and the loss of everything that the broker knew."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
import redis
from sqlalchemy import Engine, text

from tests.acceptance.stack import (
    Running,
    check_nothing_lost_or_doubled,
    counts,
    presswork,
    running_jobs,
    up,
    write_campaign,
)
from tests.waiting import until

JOBS = 40
LONG_ENOUGH = 30
"""Denoising steps, so that a batch takes long enough to be hit."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A stack with leases of three seconds."""
    folder = tmp_path_factory.mktemp("faults")
    with up(folder / "data", folder / "up.log") as running:
        yield running


@pytest.fixture
def engine(stack: Running) -> Iterator[Engine]:
    """The stack's database."""
    engine = stack.settings.engine("presswork tests")
    yield engine
    engine.dispose()


def submit(stack: Running, folder: Path) -> UUID:
    """A campaign of `JOBS` jobs, on its way."""
    file = write_campaign(folder, JOBS, steps=LONG_ENOUGH)
    return UUID(presswork("campaign", "submit", str(file), data=stack.data)["id"])


def wait_for_end(stack: Running, engine: Engine, campaign_id: UUID) -> None:
    """Every job has succeeded, exactly once."""
    until(
        lambda: counts(engine, campaign_id) == {"succeeded": JOBS},
        timeout_s=180,
        what=f"all of {campaign_id} succeeded",
    )
    check_nothing_lost_or_doubled(engine, stack.settings.objects(), campaign_id, JOBS)


def attempts(engine: Engine, campaign_id: UUID) -> int:
    """The most attempts that a job of the campaign has had."""
    with engine.begin() as connection:
        query = text("SELECT max(attempts) FROM jobs WHERE campaign_id = :id")
        return int(connection.execute(query, {"id": campaign_id}).scalar_one())


def test_worker_stopped_in_the_middle_of_a_batch(
    stack: Running, engine: Engine, tmp_path: Path
) -> None:
    """SIGTERM gives the batch back between two steps, and costs no job an attempt."""
    campaign_id = submit(stack, tmp_path)
    until(lambda: running_jobs(engine), what="a batch under way")
    parent, _ = sorted(stack.workers(), key=lambda process: process.create_time())
    parent.terminate()
    wait_for_end(stack, engine, campaign_id)
    assert attempts(engine, campaign_id) == 1


def test_cancel_of_a_running_job(stack: Running, engine: Engine, tmp_path: Path) -> None:
    """A job that would take minutes is stopped, and its worker is free for the next one."""
    file = tmp_path / "job.json"
    request = {"prompt": "x", "size": "512x512", "steps": 1000}
    file.write_text(json.dumps({"kind": "image", "request": request}))
    job_id = presswork("job", "submit", str(file), data=stack.data)["id"]
    until(lambda: running_jobs(engine), what="the job under way")
    presswork("job", "cancel", job_id, data=stack.data)

    def status() -> str:
        with engine.begin() as connection:
            query = text("SELECT status FROM jobs WHERE id = :id")
            return str(connection.execute(query, {"id": job_id}).scalar_one())

    until(lambda: status() == "cancelled", timeout_s=10)
    file.write_text(json.dumps({"kind": "image", "request": {"prompt": "x", "steps": 1}}))
    done = presswork("job", "submit", str(file), "--wait", data=stack.data)
    assert done["status"] == "succeeded"


@pytest.mark.parametrize("whom", ["child", "both"])
def test_worker_killed_in_the_middle_of_a_batch(
    stack: Running, engine: Engine, tmp_path: Path, whom: str
) -> None:
    """Kill -9 of the process that computes, or of the whole worker, loses and doubles nothing."""
    campaign_id = submit(stack, tmp_path)
    until(lambda: running_jobs(engine), what="a batch under way")
    parent, child = sorted(stack.workers(), key=lambda process: process.create_time())
    if whom == "both":
        parent.kill()
    child.kill()
    assert running_jobs(engine), "the batch was under way when its worker died"
    wait_for_end(stack, engine, campaign_id)


def test_broker_loses_everything(stack: Running, engine: Engine, tmp_path: Path) -> None:
    """FLUSHALL, over and over while work is queued and done, costs time at most."""
    ended = threading.Event()

    def flush() -> None:
        with redis.from_url(stack.settings.broker_url) as client:
            while not ended.wait(0.05):
                client.flushall()

    flusher = threading.Thread(target=flush)
    flusher.start()
    try:
        wait_for_end(stack, engine, submit(stack, tmp_path))
    finally:
        ended.set()
        flusher.join()
