"""Trainings from the request to the registry, also when something comes between."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine

from jobs import requests
from jobs.datasets import keeping
from jobs.problems import BadInputError
from jobs.services import Services
from jobs.submissions import JobSubmission, submit_job
from jobs.trainings.parts import parts_of
from jobs.trainings.requests import TrainRequest
from storage import job_events, models, training_caps, training_speeds, trainings
from storage.ledger import cancel, pause
from storage.objects import training_prefix
from storage.training_caps import OwnCaps
from tests.integration.batches import jobs, submit
from tests.integration.ledger_cases import value
from tests.trainings import DATASET, SCRATCH, add_dataset
from tests.waiting import until
from workers.runner import Runner

# diffusers 0.42 hands torch tensors to numpy 2 in its schedulers.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(autouse=True)
def _dataset(services: Services, tenant_id: UUID, tmp_path: Path) -> None:
    folder = tmp_path / DATASET
    folder.mkdir()
    add_dataset(services, tenant_id, folder)


def train(services: Services, tenant_id: UUID, **fields: Any) -> UUID:
    """A tiny model from scratch."""
    submission = JobSubmission(kind="train", request={**SCRATCH, **fields})
    return submit_job(services, tenant_id, submission)


def manifest(services: Services, name: str) -> Any:
    """The digests of a model's files but for its README, which has its name in it."""
    with services.engine.begin() as connection:
        card = models.find(connection, name)
    assert card
    files = {path: entry["sha256"] for path, entry in (card.manifest or {}).items()}
    assert files.pop("README.md")
    return files


def test_a_model_is_made_and_used(
    services: Services, tenant_id: UUID, engine: Engine, make_runner: Callable[..., Runner]
) -> None:
    """What a training has made is registered with it, and jobs can name it at once."""
    job_id = train(services, tenant_id)
    runner = make_runner()
    assert runner.run_next()
    assert jobs(engine)[job_id] == ("succeeded", 1, None)
    with engine.begin() as connection:
        card = models.find(connection, "default/tiny")
    assert card
    assert (card.family, card.kind, card.default_size) == ("diffusion", "image", "32x32")
    assert (card.source, card.tenant_id, card.licence) == (f"job:{job_id}", tenant_id, "MIT")
    submit(services, tenant_id, {"model": "default/tiny", "size": "32x32"})
    assert runner.run_next()
    assert {job[0] for job in jobs(engine).values()} == {"succeeded"}


def test_it_makes_way_and_ends_the_same(
    services: Services, tenant_id: UUID, engine: Engine, make_runner: Callable[..., Runner]
) -> None:
    """A training that others wait for goes back after a checkpoint; it ends the same to the bit."""
    whole = train(services, tenant_id, name="whole")
    assert make_runner().run_next()
    job_id = train(services, tenant_id, name="parts")
    hasty = replace(
        services, settings=services.settings.model_copy(update={"training_slice_s": 0.0})
    )
    waiting: list[UUID] = []

    def submit_when_at_work() -> bool:
        if not waiting:
            waiting.extend(submit(services, tenant_id, {}))
        return False

    runner = make_runner(hasty, submit_when_at_work)
    assert runner.run_next()
    assert jobs(engine)[job_id] == ("queued", 0, None)
    assert jobs(engine)[waiting[0]] == ("queued", 0, None)
    while jobs(engine)[job_id][0] != "succeeded":
        assert runner.run_next()
    assert jobs(engine)[job_id] == jobs(engine)[whole] == ("succeeded", 1, None)
    assert manifest(services, "default/parts") == manifest(services, "default/whole")


def test_it_is_paused_and_ends_the_same(
    services: Services, tenant_id: UUID, engine: Engine, make_runner: Callable[..., Runner]
) -> None:
    """Paused at a step of its own and resumed, it ends the same to the bit."""
    whole = train(services, tenant_id, name="whole")
    assert make_runner().run_next()
    job_id = train(services, tenant_id, name="parts")
    looks = 0

    def lease() -> Any:
        claims = "SELECT lease_until FROM claims JOIN jobs ON claim_id = claims.id"
        return value(engine, f"{claims} WHERE jobs.id = :id", id=job_id)

    def pausing() -> bool:
        nonlocal looks
        looks += any(services.objects.keys(f"{training_prefix(job_id)}checkpoints/"))
        if looks == 2:  # a step after the checkpoint of step 2
            assert pause.pause_job(engine, tenant_id, job_id) == "running"
            for _ in range(2):  # the first may have been under way
                before = lease()
                until(lambda: lease() > before, what="a beat")  # noqa: B023 (awaited here)
        return False

    runner = make_runner(stopping=pausing)
    assert runner.run_next()
    assert runner.pause_s == 0, "it has the device for others at once"
    assert jobs(engine)[job_id] == ("waiting", 0, None)
    with engine.begin() as connection:
        course = job_events.after(connection, tenant_id, job_id, 0, 100)
    assert course
    (told,) = (event.data for event in course.events if event.name == "yielded")
    assert told == {"step": 3, "why": "paused"}
    runner = make_runner()
    assert not runner.run_next()
    assert pause.resume_job(engine, tenant_id, job_id)
    assert runner.run_next()
    assert jobs(engine)[job_id] == jobs(engine)[whole] == ("succeeded", 1, None)
    assert manifest(services, "default/parts") == manifest(services, "default/whole")


def test_a_cancelled_one_registers_nothing(
    services: Services, tenant_id: UUID, engine: Engine, make_runner: Callable[..., Runner]
) -> None:
    """A cancel while it is queued or at work ends it, and no model is left."""
    job_id = train(services, tenant_id)
    cancel.cancel_job(engine, tenant_id, job_id)
    make_runner().run_next()
    assert jobs(engine)[job_id][0] == "cancelled"
    with engine.begin() as connection:
        assert models.find(connection, "default/tiny") is None


def test_a_dataset_that_was_removed(
    services: Services, tenant_id: UUID, engine: Engine, make_runner: Callable[..., Runner]
) -> None:
    """Nothing is trained on it any more, not even what was queued before."""
    job_id = train(services, tenant_id)
    keeping.remove(services, tenant_id, DATASET)
    assert make_runner().run_next()
    assert jobs(engine)[job_id] == ("failed", 1, "training_failed")
    with pytest.raises(BadInputError, match="was removed"):
        train(services, tenant_id)


def test_checkpoints_are_whole(
    services: Services, tenant_id: UUID, make_runner: Callable[..., Runner]
) -> None:
    """Two are kept, each with a manifest that names safetensors and JSON and nothing else."""
    job_id = train(services, tenant_id)
    assert make_runner().run_next()
    keys = list(services.objects.keys(f"{training_prefix(job_id)}checkpoints/"))
    manifests = [key for key in keys if key.endswith("/checkpoint.json")]
    assert len(manifests) == 2
    for key in manifests:
        files = json.loads(services.objects.get(key))["files"]
        assert {Path(name).suffix for name in files} == {".safetensors", ".json"}
        assert {key.replace("checkpoint.json", name) for name in files} < set(keys)


def test_its_time_is_up(
    services: Services, tenant_id: UUID, engine: Engine, make_runner: Callable[..., Runner]
) -> None:
    """It fails with what to do, and goes on where it was once it may; what it took is measured."""
    job_id = train(services, tenant_id, steps=8)
    with engine.begin() as connection:
        training_caps.put(connection, tenant_id, OwnCaps(max_hours=0))
    runner = make_runner()
    assert runner.run_next()
    assert jobs(engine)[job_id] == ("failed", 1, "training_cap")
    with engine.begin() as connection:
        job = trainings.find(connection, tenant_id, job_id)
        training_caps.put(connection, tenant_id, OwnCaps())
    assert job
    assert "has made 0 of 12 steps" in (job.error or {})["message"]
    requests.retry_job(services, tenant_id, job_id)
    assert runner.run_next()
    assert jobs(engine)[job_id] == ("succeeded", 2, None)
    sorts = {part.sort for part in parts_of(TrainRequest.model_validate(job.request), None)}
    with engine.begin() as connection:
        course = job_events.after(connection, tenant_id, job_id, 0, 1000)
        speeds = {speed.says for speed in training_speeds.of_sorts(connection, sorts)}
    assert course
    started = [one.data["resumed"] for one in course.events if one.name == "started"]
    assert started == [False, True]
    assert speeds == {"4 a step at 32x32"}
