"""What comes of a training that is done: files in the bucket, a card for the registry, outputs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any
from uuid import UUID

from jobs.registry import lineage, mirror
from jobs.trainings.caps import Caps
from jobs.trainings.requests import Training as Request
from storage.datasets import Dataset
from storage.models import ADAPTER, ModelCard, own_name
from storage.objects import ObjectStore
from storage.tenants import Tenant
from workers.family import Output
from workers.training import card
from workers.training.trainer import Made, Numbers

_MEDIA_TYPES: Mapping[str, str] = MappingProxyType(
    {
        ".json": "application/json",
        ".md": "text/markdown; charset=utf-8",
        ".png": "image/png",
        ".safetensors": "application/vnd.safetensors",
    }
)


@dataclass(frozen=True)
class Origin:
    """Whose training it is, what it is made from, and how long it may take."""

    tenant: Tenant
    dataset: Dataset
    base: ModelCard | None
    continued: ModelCard | None
    """What the training made that it goes on from, if that is still known."""
    caps: Caps


@dataclass(frozen=True)
class Result:
    """What was ``made`` in so many ``steps``, with the last evaluation's numbers and more facts."""

    made: Made
    request: Request
    origin: Origin
    steps: int
    evaluated: Numbers
    facts: Numbers

    def store(self, objects: ObjectStore, job_id: UUID) -> ModelCard:
        """Bring the files to the bucket under their digests, and give the card to be registered.

        Raises:
            BadInputError: what it was made from forbids it.
            ObjectStoreError: the bucket does not take them.
        """
        made, origin = self.made, self.origin
        (made.folder / card.FILE).write_text(self._readme(job_id), encoding="utf-8")
        files = {
            path.relative_to(made.folder).as_posix(): path
            for path in made.folder.rglob("*")
            if path.is_file()
        }
        manifest = mirror.manifest_of(files)
        mirror.store(objects, files, manifest)
        registered = lineage.trained_card(
            self.request.name,
            origin.tenant,
            origin.base,
            origin.dataset,
            family=made.family,
            kind=made.kind,
            manifest=manifest,
            details=made.details,
            job_id=job_id,
            parents=[origin.continued] if origin.continued else [],
            commercial=self.request.commercial,
        )
        return replace(registered, **made.card)

    def outputs(self) -> Iterator[Output]:
        """What callers get: the model's card, and the files that can be used elsewhere."""
        names = dict.fromkeys([*self.made.shown, card.FILE])
        for path in [*(self.made.folder / name for name in names), *self.made.extra]:
            facts = {"file": path.name, **self.made.facts, **self.facts}
            yield Output(path.read_bytes(), _MEDIA_TYPES[path.suffix], facts)

    def facts_of(self, registered: ModelCard) -> dict[str, Any]:
        """What is kept with every output."""
        dataset = self.origin.dataset
        attribution = (registered.attribution or "").splitlines()
        return {
            "model": registered.name,
            "revision": registered.revision,
            "licence": registered.licence,
            **({"attribution": attribution} if attribution else {}),
            "seed": self.request.seed,
            "dataset": {"name": dataset.name, "digest": dataset.digest},
        }

    def _readme(self, job_id: UUID) -> str:
        made, origin = self.made, self.origin
        parents = [one for one in (origin.base, origin.continued) if one]
        terms = lineage.terms_of(parents, origin.dataset, commercial=self.request.commercial)
        return card.readme(
            name=own_name(origin.tenant.name, self.request.name),
            family=made.family,
            kind=made.kind,
            licence=terms.licence,
            attribution=terms.attribution,
            commercial=terms.commercial,
            dataset=origin.dataset,
            job_id=job_id,
            steps=self.steps,
            base=origin.base if made.kind == ADAPTER else None,
            parents=[one.identity for one in parents],
            numbers=self.evaluated,
            weights=next((name for name in made.shown if name.endswith(".safetensors")), None),
            kohya=next((one.name for one in made.extra if "kohya" in one.name), None),
        )
