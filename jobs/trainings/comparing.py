"""What adapters make of the same prompts and seeds: ordinary image jobs, and one sheet of them."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any
from uuid import UUID

from PIL import Image

from jobs import together
from jobs.problems import BadInputError, Problem
from jobs.registry import keeping
from jobs.registry.choice import Use
from jobs.services import Services
from jobs.submissions import JobSubmission
from jobs.trainings import sheets
from jobs.trainings.sheets import Row
from storage.lifecycle import JobStatus
from storage.models import ADAPTER
from storage.views import JobView

MAX_PICTURES = 256
WITHOUT = "without"
"""The first column's label: the model as it is without an adapter."""


@dataclass(frozen=True)
class Comparison:
    """Pictures of each prompt with each seed, in columns that differ in their adapter alone.

    ``columns`` are their adapters by label, as a request has them; an empty list is the model
    alone. ``more`` is what the requests of all have besides, such as their size.
    """

    model: str
    columns: Mapping[str, Sequence[Mapping[str, Any]]]
    prompts: Sequence[str]
    seeds: Sequence[int]
    more: Mapping[str, Any] = field(default_factory=dict)
    use: Use = "commercial"

    @property
    def count(self) -> int:
        """How many pictures it is."""
        return len(self.columns) * len(self.prompts) * len(self.seeds)


def of_adapters(names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The columns for the model alone, and for each adapter."""
    return {WITHOUT: [], **{name: [{"name": name}] for name in names}}


def of_strengths(name: str, strengths: Sequence[float]) -> dict[str, list[dict[str, Any]]]:
    """The columns for the model alone, and for each strength of an adapter."""
    # A strength of 0 is the model alone.
    return {WITHOUT: []} | {
        f"{name} {strength:g}": [{"name": name, "weight": strength}]
        for strength in strengths
        if strength
    }


def model_of(services: Services, tenant_id: UUID, adapters: Sequence[str]) -> str:
    """The model that all these adapters are for.

    Raises:
        BadInputError: one is no adapter, or they are for different models.
        NotFoundError: there is no such adapter.
    """
    cards = [keeping.found(services, tenant_id, name) for name in adapters]
    problems = [
        Problem(f"{card.name!r} is a model, not an adapter", field="adapters")
        for card in cards
        if card.kind != ADAPTER
    ]
    bases = dict.fromkeys(card.base for card in cards if card.base)
    if len(bases) > 1:
        message = f"they are for different models ({', '.join(bases)}): compare those of one model"
        problems.append(Problem(message, field="adapters"))
    if problems:
        raise BadInputError(*problems)
    (base,) = bases
    return base


def run(
    services: Services,
    tenant_id: UUID,
    comparison: Comparison,
    progress: Callable[[int], None] = lambda _: None,
) -> list[JobView]:
    """Make its pictures, by row and then by column; ``progress`` is told how many have ended.

    If anything ends it before, its jobs are cancelled.

    Raises:
        BadInputError: what a job of it must not ask for.
    """
    if comparison.count > MAX_PICTURES:
        message = f"{comparison.count} pictures are too many for one sheet: at most {MAX_PICTURES}"
        raise BadInputError(Problem(message))
    return together.run(services, tenant_id, list(_submissions(comparison)), progress)


def sheet(services: Services, comparison: Comparison, jobs: Sequence[JobView]) -> Image.Image:
    """What the jobs of `run` have made, as one labelled picture; why, where one made nothing.

    Raises:
        CorruptArtifactError: naming the object.
    """
    cells = iter(_cell(services, job) for job in jobs)
    rows = [
        Row(f"seed {seed}: {prompt}", [next(cells) for _ in comparison.columns])
        for prompt, seed in _rows(comparison)
    ]
    return sheets.grid(list(comparison.columns), rows)


def _rows(comparison: Comparison) -> Iterator[tuple[str, int]]:
    return product(comparison.prompts, comparison.seeds)


def _submissions(comparison: Comparison) -> Iterator[JobSubmission]:
    for prompt, seed in _rows(comparison):
        for adapters in comparison.columns.values():
            request = {
                **comparison.more,
                "prompt": prompt,
                "seed": seed,
                "model": comparison.model,
                "adapters": list(adapters),
            }
            yield JobSubmission(kind="image", request=request, use=comparison.use)


def _cell(services: Services, job: JobView) -> Image.Image | str:
    if job.status is not JobStatus.SUCCEEDED:
        return together.failure_of(job)
    data = together.content(services, job.artifacts[0])
    picture = Image.open(io.BytesIO(data), formats=["PNG"])
    picture.thumbnail((sheets.SIDE_PX, sheets.SIDE_PX))  # hundreds of large ones are not kept
    return picture
