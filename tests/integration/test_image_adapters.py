"""Adapters for image models: from the request over the training to the jobs that use them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, select

from jobs.problems import BadInputError
from jobs.registry import adding
from jobs.registry.specs import ModelSpec
from jobs.services import Services
from jobs.submissions import JobSubmission, submit_job
from storage import models
from storage.tables import Artifact
from tests.integration.batches import jobs, submit
from tests.model_trees import pipeline, write
from tests.trainings import DATASET, add_dataset
from workers.runner import Runner

# diffusers 0.42 hands torch tensors to numpy 2 in its schedulers.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

FINETUNE = {
    "name": "glow",
    "model": "debug-diffusion",
    "dataset": DATASET,
    "size": "32x32",
    "steps": 2,
    "batch": 1,
    "rank": 2,
    "learning_rate": 0.01,
    "seed": 7,
}


@pytest.fixture(autouse=True)
def _dataset(services: Services, tenant_id: UUID, tmp_path: Path) -> None:
    folder = tmp_path / DATASET
    folder.mkdir()
    add_dataset(services, tenant_id, folder)


def finetune(services: Services, tenant_id: UUID, **fields: Any) -> UUID:
    """An adapter for a model."""
    submission = JobSubmission(kind="finetune", request={**FINETUNE, **fields})
    return submit_job(services, tenant_id, submission)


def refused(services: Services, tenant_id: UUID, **fields: Any) -> str:
    """What is said of one that is not taken."""
    with pytest.raises(BadInputError) as caught:
        finetune(services, tenant_id, **fields)
    return str(caught.value)


def test_an_adapter_is_made_and_used(
    services: Services, tenant_id: UUID, engine: Engine, make_runner: Callable[..., Runner]
) -> None:
    """It is registered for its model, ready for the bank; kohya's file is an output beside it."""
    job_id = finetune(services, tenant_id)
    runner = make_runner()
    assert runner.run_next()
    assert jobs(engine)[job_id] == ("succeeded", 1, None)
    with engine.begin() as connection:
        card = models.find(connection, "default/glow")
    assert card
    assert (card.kind, card.base) == ("adapter", "debug-diffusion")
    assert (card.details["bank"], card.details["rank"]) == (True, 2)
    assert set(card.manifest or {}) == {"pytorch_lora_weights.safetensors", "README.md"}
    with engine.begin() as connection:
        files = connection.scalars(select(Artifact.facts["file"].astext)).all()
    assert sorted(files) == ["README.md", "kohya.safetensors", "pytorch_lora_weights.safetensors"]
    submit(services, tenant_id, {"size": "32x32", "adapters": [{"name": "default/glow"}]})
    assert runner.run_next()
    assert {job[0] for job in jobs(engine).values()} == {"succeeded"}


def test_what_is_refused(services: Services, tenant_id: UUID, tmp_path: Path) -> None:
    """Classes that are not trained, and what does not fit a class, before anything is queued."""

    def add(name: str, kind: str, scheduler: dict[str, Any]) -> None:
        folder = pipeline(tmp_path / name)
        write(folder / "model_index.json", {"_class_name": kind})
        write(folder / "scheduler" / "scheduler_config.json", scheduler)
        adding.add(
            services, ModelSpec(name=name, source=f"dir:{folder}", licence="MIT", size="64x64")
        )

    add("sigma", "PixArtSigmaPipeline", {})
    add("flow", "StableDiffusionPipeline", {"prediction_type": "flow_prediction"})
    add("sample", "StableDiffusionPipeline", {"prediction_type": "sample"})
    said = refused(services, tenant_id, model="sigma")
    assert "model: model 'sigma' is a PixArtSigmaPipeline" in said
    assert "StableDiffusionPipeline, StableDiffusionXLPipeline" in said
    assert "min_snr_gamma: " in refused(services, tenant_id, model="flow", min_snr_gamma=5)
    assert "model: the denoiser of 'sample'" in refused(services, tenant_id, model="sample")
    fields: dict[str, Any] = {"size": "33x32", "max_tokens": 64, "patience": 2, "evaluate_every": 1}
    said = refused(services, tenant_id, **fields)
    for field in ("size: ", "max_tokens: ", "held_out: "):
        assert field in said
    assert "is for gan jobs" in refused(services, tenant_id, model="debug-gan")
