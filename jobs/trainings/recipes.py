"""What becomes of a recipe: its dataset is added where need be, and its training is checked."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from jobs.campaigns import document
from jobs.campaigns.file import under
from jobs.datasets import keeping, reading
from jobs.datasets.checking import checked as checked_content
from jobs.problems import BadInputError, Problem
from jobs.registry.choice import Use
from jobs.services import Services
from jobs.trainings import submitting
from jobs.trainings.file import DatasetEntry, Recipe
from jobs.trainings.submitting import Checked
from storage import datasets
from storage.datasets import Dataset

Progress = Callable[[int, int], None]


def _silent(done: int, total: int) -> None:
    del done, total


def checked(
    services: Services,
    tenant_id: UUID,
    recipe: Recipe,
    use: Use,
    *,
    source: str | None = None,
    idempotency_key: str | None = None,
    progress: Progress = _silent,
) -> Checked:
    """The training of a recipe, ready to be queued; its dataset has been added.

    ``source`` is where the dataset's files are, in place of what the recipe says.

    Raises:
        BadInputError: what is wrong, with file and line.
        ConflictError: there is another dataset of that name.
    """
    with _placed(recipe):
        wanted = _to_read(services, tenant_id, recipe, source)
        if wanted:
            entry, place = wanted
            with (
                _of_dataset(source),
                reading.opened(services, tenant_id, place) as material,
            ):
                keeping.add(services, tenant_id, entry.spec, material, progress)
        return submitting.check(
            services, tenant_id, recipe.kind, recipe.request, use, idempotency_key=idempotency_key
        )


def looked_at(
    services: Services,
    tenant_id: UUID,
    recipe: Recipe,
    use: Use,
    *,
    source: str | None = None,
    progress: Progress = _silent,
) -> Checked:
    """What `checked` would give if the name was free; nothing is kept.

    Raises:
        BadInputError: what is wrong, with file and line.
    """
    with _placed(recipe):
        dataset = None
        wanted = _to_read(services, tenant_id, recipe, source)
        if wanted:
            entry, place = wanted
            with (
                _of_dataset(source),
                reading.opened(services, tenant_id, place) as material,
                checked_content(material, entry, progress) as content,
            ):
                dataset = Dataset(
                    **entry.model_dump(include={"name", "licence", "consent", "attribution"}),
                    trigger=entry.trigger,
                    kind=content.kind,
                    count=content.count,
                    digest=content.digest,
                    manifest_key="",
                    created_at=datetime.now(UTC),
                    removed_at=None,
                )
        return submitting.check(
            services,
            tenant_id,
            recipe.kind,
            recipe.request,
            use,
            dataset=dataset,
            takes_name=False,
        )


def _to_read(
    services: Services, tenant_id: UUID, recipe: Recipe, source: str | None
) -> tuple[DatasetEntry, str] | None:
    """The dataset, and where its files are; None: it is there, and they are not to be looked at.

    They are looked at wherever they are to be had: what has changed since must not go unnoticed.
    """
    entry = recipe.dataset
    if entry is None:
        if source:
            message = "the recipe does not say how its dataset is added, but only its name"
            raise BadInputError(Problem(message, field="--source"))
        return None
    place = source or entry.source
    with services.engine.begin() as connection:
        is_known = datasets.find(connection, tenant_id, entry.name) is not None
    if place is None:
        if not is_known:
            message = "say where its files are, here or with --source"
            raise BadInputError(Problem(message, field="dataset.source"))
        return None
    if is_known and source is None and not _is_there(place):
        return None
    return entry, place


def _is_there(place: str) -> bool:
    scheme, _, path = place.partition(":")
    return scheme == "files" or Path(path).exists()


@contextmanager
def _placed(recipe: Recipe) -> Iterator[None]:
    """Problems that leave the block have the recipe's lines, but for those of options."""
    try:
        yield
    except BadInputError as error:
        placed = (
            problem if (problem.field or "").startswith("--") else recipe.place(problem)
            for problem in error.problems
        )
        raise BadInputError(*document.by_line(placed)) from error


@contextmanager
def _of_dataset(source: str | None) -> Iterator[None]:
    """Problems that leave the block are the dataset's, or its source's."""
    try:
        yield
    except BadInputError as error:
        problems = []
        for problem in error.problems:
            if problem.field == "source" and source:
                problems.append(replace(problem, field="--source"))
            elif problem.file is None:
                problems.append(under(problem, "dataset"))
            else:  # a file of the dataset's
                problems.append(problem)
        raise BadInputError(*problems) from error
