"""What a family of models is to the runner: the protocol, and what passes through it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, runtime_checkable
from uuid import UUID

from jobs.kinds import KindRequest
from storage.models import ModelCard

if TYPE_CHECKING:
    from workers.compiled import Compiler


class StopRequestedError(Exception):
    """Raised between steps: leave the batch, its jobs are given back."""


@dataclass(frozen=True)
class Device:
    """What a worker process computes on: ``cpu`` or ``cuda``, the only one that it sees.

    ``dtype`` is the precision of the weights that compute: fp32 is what makes the same seed give
    the same output alone and in a batch, bf16 what makes it fast. Its memory is divided evenly
    among so many ``shares``, of which one is this process's.
    """

    type: str
    dtype: Literal["float32", "bfloat16"] = "float32"
    shares: int = 1
    compiler: "Compiler | None" = field(default=None, compare=False)
    """None: all is run as it is."""


@dataclass(frozen=True)
class Input:
    """A file that a job starts from. A picture is a PNG that we have encoded ourselves."""

    data: bytes
    media_type: str
    sha256: str
    licence: str | None = None
    attribution: Sequence[str] = ()


@dataclass(frozen=True)
class Adapter:
    """An adapter's files on this machine, checked; ``identity`` changes with its weights.

    ``tenant_id`` is whose it is, as of `ModelCard`.

    What its licence demands goes to the facts of all that is made with it. ``bank``: its jobs share
    batches with those of other such adapters, see `jobs.registry.adapters`.
    """

    identity: str
    weight: float
    files: Path
    licence: str = ""
    attribution: str | None = None
    bank: bool = False
    tenant_id: UUID | None = None


class AdapterDoesNotFitError(ValueError):
    """The model has no place for the adapter's weights."""


@dataclass(frozen=True)
class Item:
    """One job of a tenant's as the family sees it. ``request`` is resolved: no field is left open.

    ``inputs`` are the files that its references named, by field, in their order.
    """

    job_id: UUID
    request: KindRequest
    inputs: Mapping[str, Sequence[Input]] = field(default_factory=dict)
    adapters: Sequence[Adapter] = ()
    tenant_id: UUID | None = None

    @property
    def seed(self) -> int:
        """The request's seed; the runner chooses one where the caller has not."""
        assert self.request.seed is not None
        return self.request.seed


@dataclass(frozen=True)
class Output:
    """One finished file. ``facts`` are kept with the artifact, such as width and height.

    Kind, model, revision, licence, seed, adapters and inputs are added by the runner. ``content``
    may be what encodes it, which then happens beside the next batch, in a thread of the writer's.
    """

    content: bytes | Callable[[], bytes]
    media_type: str
    facts: Mapping[str, Any]

    @cached_property
    def data(self) -> bytes:
        """The file's bytes."""
        return self.content if isinstance(self.content, bytes) else self.content()


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

    tolerance: float
    """By how much of full scale the same seed may differ alone and in a batch, in fp32; 0: not."""

    pads: bool
    """Whether calls of few sizes are faster than calls that fit: code is compiled, and algorithms
    are chosen, for each size anew. Then calls are filled up by repeating their last item."""

    def debug(self, folder: Path) -> None:
        """Write the files of a model with tiny seeded weights, that runs in a second on a CPU."""

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


@runtime_checkable
class Compiles(Protocol):
    """What a family has beside, whose models are compiled for the sizes that they run at."""

    def warm(self, model: Any, items: Sequence[Item]) -> None:
        """Have compiled what a call of ``items`` needs, without making them."""
