"""Datasets under their names: added, listed, shown and removed.

What was interrupted has registered nothing; done again it finds in the bucket what is there.
"""

import json
from dataclasses import dataclass
from uuid import UUID

from jobs.datasets.checked import Checked, told
from jobs.datasets.checking import checked
from jobs.datasets.definition import DatasetSpec, licence_problems
from jobs.datasets.pictures import Progress
from jobs.datasets.reading import Material
from jobs.problems import BadInputError, ConflictError, NotFoundError, Problem
from jobs.services import Services
from storage import datasets
from storage.datasets import Dataset
from storage.objects import picture_key

EXAMPLES = 5

_TERMS = ("digest", "licence", "consent", "attribution", "trigger")
"""What a name stands for."""


@dataclass(frozen=True)
class Added:
    """A registered dataset, and what was remarkable about it."""

    dataset: Dataset
    warnings: tuple[Problem, ...]


def add(
    services: Services,
    tenant_id: UUID,
    spec: DatasetSpec,
    material: Material,
    progress: Progress = lambda _done, _total: None,
) -> Added:
    """Register a dataset; the same one again is the one that is there.

    Raises:
        BadInputError: all that is wrong with it.
        ConflictError: the name stands for another one, or for one that was removed.
    """
    problems = list(licence_problems(spec))
    if problems:
        raise BadInputError(*problems)
    with checked(material, spec, progress) as found:
        key = datasets.manifest_key(tenant_id, found.digest)
        with services.engine.begin() as connection:
            known = {one.name: one for one in datasets.every(connection, tenant_id)}
        if spec.name in known:  # before thousands of pictures are sent
            _check_same(known[spec.name], spec, found)
        _store(services, tenant_id, found, key)
    with services.engine.begin() as connection:
        dataset = datasets.add(
            connection,
            tenant_id,
            spec.name,
            kind=found.kind,
            licence=spec.licence,
            consent=spec.consent,
            attribution=spec.attribution,
            trigger=spec.trigger,
            count=found.count,
            digest=found.digest,
            manifest_key=key,
        )
    _check_same(dataset, spec, found)
    others = [
        Problem(f"dataset {one.name!r} has the same one", field="trigger")
        for one in known.values()
        if spec.trigger and one.trigger == spec.trigger and one.name != spec.name
    ]
    return Added(dataset, tuple(told([*found.warnings, *others])))


def _check_same(dataset: Dataset, spec: DatasetSpec, found: Checked) -> None:
    if dataset.removed_at:
        message = f"dataset {dataset.name!r} was removed, and its name stays taken: choose another"
        raise ConflictError(message)
    given = {**spec.model_dump(), "digest": found.digest}
    differs = [name for name in _TERMS if getattr(dataset, name) != given[name]]
    if differs:
        what = ", ".join("content" if name == "digest" else name for name in differs)
        raise ConflictError(
            f"there is a dataset {dataset.name!r} already, with another {what}: choose another name"
        )


def _store(services: Services, tenant_id: UUID, found: Checked, key: str) -> None:
    for sha256, file in found.pictures.items():
        place = picture_key(tenant_id, sha256)
        if not services.objects.exists(place):
            services.objects.put(place, file.read_bytes(), "image/png")
    if not services.objects.exists(key):
        services.objects.put(key, found.manifest, "application/jsonl")


def listed(services: Services, tenant_id: UUID) -> list[Dataset]:
    """The tenant's datasets by name, also those that were removed."""
    with services.engine.begin() as connection:
        return datasets.every(connection, tenant_id)


def show(services: Services, tenant_id: UUID, name: str) -> Dataset:
    """The tenant's dataset of that name; NotFoundError where there is none."""
    with services.engine.begin() as connection:
        dataset = datasets.find(connection, tenant_id, name)
    return _found(dataset, name)


def remove(services: Services, tenant_id: UUID, name: str) -> Dataset:
    """Let nothing more be trained on it; no bytes are deleted. NotFoundError: there is none."""
    with services.engine.begin() as connection:
        dataset = datasets.remove(connection, tenant_id, name)
    return _found(dataset, name)


def _found(dataset: Dataset | None, name: str) -> Dataset:
    if dataset is None:
        raise NotFoundError(f"there is no dataset {name!r}")
    return dataset


def examples(services: Services, dataset: Dataset) -> list[str]:
    """The first captions, or the first prompts of a dataset of text."""
    with services.objects.open(dataset.manifest_key) as manifest:
        items = [
            json.loads(manifest.stream.readline()) for _ in range(min(EXAMPLES, dataset.count))
        ]
    if dataset.kind == "pictures":
        return [item["caption"] for item in items]
    return [item.get("prompt") or _asked(item["messages"]) for item in items]


def _asked(messages: list[dict[str, str]]) -> str:
    return next(message["content"] for message in messages if message["role"] == "user")
