"""What a trained model is by its parents: what its licence allows, whom it names, its card."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any
from uuid import UUID

from jobs.problems import BadInputError, Problem
from storage.datasets import Dataset
from storage.licences import parts_of, rules_of, without_derivatives
from storage.models import (
    ADAPTER,
    REVISION_LENGTH,
    Manifest,
    ModelCard,
    manifest_digest,
    own_name,
)
from storage.tenants import Tenant


@dataclass(frozen=True)
class Terms:
    """What follows from all parents together; the fields are those of a `ModelCard`."""

    licence: str
    commercial: bool
    attribution: str | None
    licence_until: date | None


def licence_of(parts: Sequence[str]) -> str:
    """The SPDX expression that demands all of ``parts``, themselves expressions, each once."""
    return " AND ".join(dict.fromkeys(each for part in parts if part for each in parts_of(part)))


def attributions_of(texts: Iterable[str | None]) -> list[str]:
    """What must be said, each line once: what was trained repeats what its parents demand."""
    return list(dict.fromkeys(line for text in texts if text for line in text.splitlines() if line))


def terms_of(
    parents: Sequence[ModelCard], dataset: Dataset, *, commercial: bool | None = None
) -> Terms:
    """What a model may be used for that is trained on ``dataset``, starting from ``parents``.

    ``commercial`` says whether the dataset's terms allow commercial use, where Presswork does not
    know. That of the parents stands on their cards.

    Raises:
        BadInputError: it must not be made, or ``commercial`` has to be said.
    """
    problems = list(_problems(parents, dataset, commercial=commercial))
    if problems:
        raise BadInputError(*problems)
    rules = rules_of(dataset.licence)
    allowed = all(rule and rule.commercial for rule in rules) if commercial is None else commercial
    words = [rule.words for rule in rules if rule]
    said = attributions_of([*(card.attribution for card in parents), dataset.attribution, *words])
    ends = [card.licence_until for card in parents if card.licence_until]
    return Terms(
        licence=licence_of([*(card.licence for card in parents), dataset.licence]),
        commercial=allowed and all(card.commercial for card in parents),
        attribution="\n".join(said) or None,
        licence_until=min(ends, default=None),
    )


def _problems(
    parents: Sequence[ModelCard], dataset: Dataset, *, commercial: bool | None
) -> Iterator[Problem]:
    for card in parents:
        for licence in without_derivatives(card.licence):
            message = (
                f"the licence of {card.name!r} ({licence}) forbids to pass on what was adapted "
                "from it: choose another"
            )
            yield Problem(message, field="model")
    for licence in without_derivatives(dataset.licence):
        message = (
            f"the licence of dataset {dataset.name!r} ({licence}) forbids to pass on what was "
            "adapted from it: nothing may be trained on it"
        )
        yield Problem(message, field="dataset")
    for licence, rule in zip(parts_of(dataset.licence), rules_of(dataset.licence), strict=True):
        if commercial and rule and rule.commercial is False:
            message = f"the licence of dataset {dataset.name!r} ({licence}) forbids it: say no"
            yield Problem(message, field="commercial")
        if commercial is None and (rule is None or rule.commercial is None):
            message = (
                f"the licence of dataset {dataset.name!r} ({licence}) leaves open whether what is "
                "made with it may be used commercially: say yes or no"
            )
            yield Problem(message, field="commercial")


def trained_card(
    name: str,
    tenant: Tenant,
    base: ModelCard | None,
    dataset: Dataset,
    *,
    family: str,
    kind: str,
    manifest: Manifest,
    details: Mapping[str, Any],
    job_id: UUID,
    parents: Sequence[ModelCard] = (),
    commercial: bool | None = None,
) -> ModelCard:
    """The card of what the job ``job_id`` has trained: an adapter for ``base``, or a model.

    ``name`` is as `jobs.registry.specs.Name` has it, the tenant's goes before it. ``parents`` are
    those besides ``base`` that the weights come from, such as the model that is trained further.
    An adapter has the family, the pool and the sizes of its base; the sizes and defaults of a model
    of its own are for the caller to put in place.

    Raises:
        BadInputError: as `terms_of` does.
    """
    assert (kind == ADAPTER) == (base is not None), "an adapter has a base, and nothing else has"
    forebears = [*([base] if base else []), *parents]
    assert all(card.is_for(tenant.id) for card in forebears), "nobody trains on another's model"
    terms = terms_of(forebears, dataset, commercial=commercial)
    digest = manifest_digest(manifest)
    made_by = {
        "job": str(job_id),
        "dataset": {"name": dataset.name, "digest": dataset.digest},
        "parents": [card.identity for card in forebears],
    }
    like = base or ModelCard(name="", family=family, kind=kind, source="", licence="")
    return replace(
        like,
        name=own_name(tenant.name, name),
        tenant_id=tenant.id,
        kind=kind,
        base=base.name if base else None,
        source=f"job:{job_id}",
        revision=digest[:REVISION_LENGTH],
        details={**details, "made_by": made_by},
        manifest=manifest,
        manifest_sha256=digest,
        retired_at=None,
        **vars(terms),
    )
