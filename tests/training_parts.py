"""Trainings without a database: data made by hand, checkpoints in memory, and who listens."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from jobs.trainings.requests import TrainRequest
from tests.dataset_files import drawn, encoded
from workers.family import Device, StopRequestedError
from workers.training.checkpoints import Checkpoint
from workers.training.data import Data, PictureItem
from workers.training.learner import Learner, Optimisation
from workers.training.loop import Loop
from workers.training.trainer import Ground, Made, Numbers, Sample, Training

SEED = 7


class Kept:
    """Checkpoints, as they would be read again."""

    def __init__(self) -> None:
        self.all: list[Checkpoint] = []

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep it."""
        state = json.loads(json.dumps(checkpoint.state))
        self.all.append(Checkpoint(checkpoint.step, checkpoint.tensors, state))

    def latest(self) -> Checkpoint | None:
        """The last one."""
        return self.all[-1] if self.all else None


class Heard:
    """What a training said."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, dict[str, Any]]] = []
        self.samples: list[tuple[int, Sample]] = []

    def note(self, name: str, data: dict[str, Any]) -> None:
        """Note it."""
        self.notes.append((name, data))

    def show(self, step: int, sample: Sample) -> None:
        """Keep it."""
        self.samples.append((step, sample))

    def of(self, name: str) -> list[dict[str, Any]]:
        """All notes of one name."""
        return [data for known, data in self.notes if known == name]


class Stop:
    """Raises at the look before step number ``at``."""

    def __init__(self, at: int) -> None:
        self._looks = at

    def __call__(self) -> None:
        """Look."""
        if self._looks == 0:
            raise StopRequestedError
        self._looks -= 1


def request_of(architecture: Mapping[str, Any], **fields: Any) -> TrainRequest:
    """A short training that is complete."""
    usual = {
        "name": "made",
        "dataset": "things",
        "size": "32x32",
        "steps": 6,
        "batch": 4,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
        "checkpoint_every": 2,
        "precision": "float32",
    }
    return TrainRequest.model_validate({**usual, "architecture": architecture, **fields})


def ground_of(request: TrainRequest, pictures: Mapping[str, Sequence[Image.Image]]) -> Ground:
    """Pictures by their caption, to train on."""
    items = [
        PictureItem(f"{caption}-{number}.png", encoded(picture), caption)
        for caption, some in pictures.items()
        for number, picture in enumerate(some)
    ]
    return Ground(request, Data("a digest", None, items), Device("cpu"), SEED)


def blots(count: int) -> dict[str, list[Image.Image]]:
    """Pictures, half of them of each caption."""
    return {
        "first": [drawn(number, 48, 40) for number in range(count // 2)],
        "second": [drawn(number, 48, 40) for number in range(count // 2, count)],
    }


def loop_of(training: Training, request: TrainRequest, kept: Any = None, **more: Any) -> Loop:
    """A loop that nobody disturbs."""
    usual: dict[str, Any] = {
        "checkpoints": Kept() if kept is None else kept,
        "saying": Heard(),
        "look": lambda: None,
        "give_way": lambda: False,
    }
    return Loop(training, request, SEED, **{**usual, **more})


def everything(training: Training) -> dict[str, Tensor]:
    """All tensors that a checkpoint of it holds."""
    return {
        f"{name}/{key}": tensor
        for name, learner in training.learners.items()
        for key, tensor in learner.tensors().items()
    }


def assert_same(one: Training, other: Training) -> None:
    """Both are the same, bit by bit."""
    ours, theirs = everything(one), everything(other)
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    states = [
        ({name: learner.state() for name, learner in training.learners.items()}, training.state)
        for training in (one, other)
    ]
    assert json.dumps(states[0]) == json.dumps(states[1])


def interrupted(
    make: Callable[[], Training], request: TrainRequest, at: int, kept: Kept | None = None
) -> Training:
    """A training that was stopped before step ``at``, and went on from its last checkpoint."""
    kept = Kept() if kept is None else kept
    with pytest.raises(StopRequestedError):
        loop_of(make(), request, kept, look=Stop(at)).run()
    again, heard = make(), Heard()
    assert loop_of(again, request, kept, saying=heard).run()
    assert heard.of("started")[0]["step"] == at - at % request.between_checkpoints
    return again


NOT_BETTER = (1.0, 0.5, 0.7, 0.6, 0.4, 0.5, 0.6, 0.7, 0.3)


class Sums:
    """A training that learns to add numbers; evaluation ``n`` gives ``errors[n - 1]``."""

    watched = "error"

    def __init__(self, request: TrainRequest, width: int = 4) -> None:
        assert request.steps
        torch.manual_seed(SEED)
        self.module = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 1))
        self.steps = request.steps
        self.learners = {"sums": Learner(self.module, Optimisation.of(request))}
        self.state: dict[str, Any] = {}
        self.seen: dict[int, Tensor] = {}
        self.errors = NOT_BETTER
        self.fails_at: int | None = None

    def resume(self, step: int) -> None:
        """Nothing is to be made again."""

    def step(self, step: int) -> Numbers:
        """Learn from numbers that are drawn."""
        self.seen[step] = torch.randn(8, 3)
        given = self.seen[step] * (float("nan") if step == self.fails_at else 1)
        loss = (self.module(given)[:, 0] - given.sum(1)).square().mean()
        loss.backward()
        self.state["sum"] = self.state.get("sum", 0.0) + loss.item()
        return {"loss": loss.item(), **self.learners["sums"].apply(step)}

    def evaluate(self, step: int) -> Numbers:
        """As was said."""
        return {"error": self.errors[step - 1]}

    def samples(self, step: int) -> Iterator[Sample]:
        """What was drawn for them."""
        yield Sample(f"{step}", str(torch.randn(2)))

    def export(self, folder: Path) -> Made:
        """Nobody asks for it here."""
        raise NotImplementedError


def sums_request(**fields: Any) -> TrainRequest:
    """For `Sums`: nine steps, with a checkpoint after every third."""
    usual = {"steps": 9, "checkpoint_every": 3, "ema": 0.9}
    return request_of({"type": "vae"}, **{**usual, **fields})
