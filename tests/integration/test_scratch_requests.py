"""GANs and autoencoders as jobs: what is refused, what is continued, and what is made."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from jobs.problems import BadInputError
from jobs.services import Services
from jobs.submissions import JobSubmission, submit_job
from tests.integration.batches import jobs
from tests.trainings import DATASET, add_dataset
from workers.runner import Runner

REQUEST = {"name": "made", "dataset": DATASET, "steps": 4, "seed": 7, "size": "32x32"}
GAN, VAE = {"type": "gan"}, {"type": "vae"}


@pytest.fixture(autouse=True)
def _dataset(services: Services, tenant_id: UUID, tmp_path: Path) -> None:
    folder = tmp_path / DATASET
    folder.mkdir()
    add_dataset(services, tenant_id, folder)


def train(services: Services, tenant_id: UUID, **fields: Any) -> UUID:
    """Ask for a training."""
    submission = JobSubmission(kind="train", request={**REQUEST, **fields})
    return submit_job(services, tenant_id, submission)


def problems(services: Services, tenant_id: UUID, **fields: Any) -> dict[str, str]:
    """What is said against it, by field."""
    with pytest.raises(BadInputError) as caught:
        train(services, tenant_id, **fields)
    return {
        (one.field or "").removeprefix("request."): one.message for one in caught.value.problems
    }


def test_what_is_refused(services: Services, tenant_id: UUID) -> None:
    """The field is named, and nothing is queued."""
    for field, says, fields in (
        ("size", "32x32, 64x64, 128x128", {"architecture": GAN, "size": "48x48"}),
        ("precision", "float32", {"architecture": GAN, "precision": "bfloat16"}),
        ("sample_prompts", "leave them out", {"architecture": GAN, "sample_prompts": ["a mug"]}),
        ("size", "multiple of 32", {"architecture": {**VAE, "widths": [8] * 6}, "size": "48x48"}),
        ("continue_from", "you have no", {"architecture": VAE, "continue_from": UUID(int=1)}),
    ):
        found = problems(services, tenant_id, **fields)
        assert found.keys() == {field}
        assert says in found[field]
    assert jobs(services.engine) == {}


def test_labels_are_captions(
    services: Services, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Captions that cannot be labels are found in the dataset; others may be."""
    architecture = {**GAN, "labels": True}
    train(services, tenant_id, architecture=architecture)
    monkeypatch.setattr("jobs.trainings.labels.MAX_LABELS", 5)
    found = problems(services, tenant_id, name="others", architecture=architecture)
    assert found.keys() == {"architecture.labels"}
    assert "6 different captions" in found["architecture.labels"]


@pytest.mark.parametrize(
    ("architecture", "request_"),
    [
        ({**GAN, "width": 4, "labels": True}, {"label": "a brandx-mug, number 3"}),
        ({**VAE, "widths": [4, 8]}, {"mode": "sample", "size": "32x32"}),
    ],
    ids=["gan", "vae"],
)
def test_what_it_makes_is_used(
    services: Services,
    tenant_id: UUID,
    make_runner: Callable[..., Runner],
    architecture: Any,
    request_: Any,
) -> None:
    """A model is registered when its training ends, and a job of its kind names it at once."""
    train(services, tenant_id, architecture=architecture, steps=2)
    runner = make_runner()
    assert runner.run_next()
    submission = JobSubmission(
        kind=architecture["type"], request={**request_, "model": "default/made"}
    )
    submit_job(services, tenant_id, submission)
    assert runner.run_next()
    assert [job[0] for job in jobs(services.engine).values()] == ["succeeded", "succeeded"]
