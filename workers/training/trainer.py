"""What a trainer is to the loop: the protocol, and what passes through it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from jobs.trainings.requests import Training as Request
from storage.models import ModelCard
from workers.family import Device
from workers.training.data import Data
from workers.training.learner import Learner

Numbers = dict[str, float]
"""What is measured at a step, by name: ``loss``, ``learning_rate``, ..."""


class TrainingError(Exception):
    """The training cannot go on, and would not if it was tried again: the message says why."""


class StepFailedError(TrainingError):
    """Its numbers are not finite any more."""


class TimeUpError(TrainingError):
    """It has been at work for as long as it may; after ``step`` steps, which are kept."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the time was up after {step} steps")
        self.step = step


@dataclass(frozen=True)
class Ground:
    """All that a training starts from.

    ``base`` is the folder with the files of the model of ``card``; None: from scratch. ``look``
    is to be called now and then during anything that takes seconds, and raises
    `workers.family.StopRequestedError`.
    """

    request: Request
    data: Data
    device: Device
    seed: int
    card: ModelCard | None = None
    base: Path | None = None
    look: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Sample:
    """A picture, or a text, that shows how far it is."""

    caption: str
    content: Image.Image | str


@dataclass(frozen=True)
class Made:
    """What a training has made: the ``files`` of a model, or of an adapter, in a folder.

    ``shown`` are those that callers get as the job's outputs.
    """

    family: str
    kind: str
    folder: Path
    details: Mapping[str, Any] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `storage.models.ModelCard` that differ from the base's, or the defaults."""
    shown: Sequence[str] = ()
    extra: Sequence[Path] = ()
    """Files outside of the folder that callers get as well, and that are not registered."""
    facts: Mapping[str, Any] = field(default_factory=dict)


class Training(Protocol):
    """A training under way. All that changes in it is its learners', and its ``state``."""

    state: dict[str, Any]
    """What else a checkpoint holds: JSON."""

    @property
    def steps(self) -> int:
        """How many steps there will be."""

    @property
    def learners(self) -> Mapping[str, Learner]:
        """All that learns, by names that stay the same."""

    @property
    def watched(self) -> str | None:
        """The number of an evaluation that should become small; None: there is none."""

    def resume(self, step: int) -> None:
        """Make what a training after ``step`` steps has, beside its learners and state."""

    def step(self, step: int) -> Numbers:
        """The step with that number, from 0 on, after `draws.begin` for it.

        Raises:
            TrainingError: it is of no use to go on.
        """

    def evaluate(self, step: int) -> Numbers:
        """How good it is after ``step`` steps, on what it does not learn from."""

    def samples(self, step: int) -> Iterator[Sample]:
        """What it makes after ``step`` steps."""

    def export(self, folder: Path) -> Made:
        """Write what it has made to ``folder``, which is empty."""
