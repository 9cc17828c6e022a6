"""What a family of models is to the runner: the protocol, and what passes through it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar
from uuid import UUID

from jobs.kinds import KindRequest
from storage.models import ModelCard


class StopRequestedError(Exception):
    """Raised between steps: leave the batch, its jobs are given back."""


@dataclass(frozen=True)
class Device:
    """What a worker process computes on: ``cpu`` or ``cuda``, the only one that it sees."""

    type: str


@dataclass(frozen=True)
class Item:
    """One job as the family sees it. ``request`` is resolved: no field is left open."""

    job_id: UUID
    request: KindRequest


@dataclass(frozen=True)
class Output:
    """One finished file. ``facts`` are kept with the artifact: seed, width, height, model."""

    data: bytes
    media_type: str
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class JobError:
    """Why one item has no output; ``retry``: another attempt may go better."""

    code: str
    message: str
    retry: bool


class Context(Protocol):
    """The runner's ear while a batch is made."""

    def step(self, done: int, total: int) -> None:
        """To be called between steps; raises `StopRequestedError`."""


M = TypeVar("M")


class Family(Protocol[M]):
    """The code that runs one type of model. Leases, retries and storing are the runner's."""

    def load(self, files: Path, card: ModelCard, device: Device) -> M:
        """The model, ready on the device. ValueError: the files are not such a model."""

    def max_batch(self, model: M) -> int:
        """How many items one call may have; 1: the model cannot batch."""

    def generate(
        self, model: M, items: Sequence[Item], context: Context
    ) -> Iterator[tuple[int, list[Output] | JobError]]:
        """The outputs of ``items``, which share a batch key, by their index in any order."""

    def unload(self, model: M) -> None:
        """Give the device's memory back."""
