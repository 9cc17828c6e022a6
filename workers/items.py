"""From claimed jobs to items: each job's request, complete."""

from collections.abc import Iterable, Iterator
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from jobs.campaigns import creatives
from jobs.campaigns.creatives import Creative
from jobs.kinds import KINDS, KindRequest
from jobs.kinds.values import AdapterUse, derived_seed
from jobs.problems import BadInputError, from_validation
from jobs.registry import lineage
from jobs.trainings.requests import TRAININGS
from storage.ledger.claim import Batch, ClaimedJob
from storage.ledger.finish import Failed
from storage.models import ModelCard
from workers.family import Item


def items_of(batch: Batch) -> Iterator[Item | Failed]:
    """Each job's item, or why it cannot have one; trainings have none.

    A campaign's request is rendered only now, so that personal data lives in one table.
    """
    parsed: dict[UUID, Creative] = {}
    for job in batch.jobs:
        if job.kind in TRAININGS:
            continue
        try:
            yield Item(job.id, _request(job, parsed), tenant_id=job.tenant_id)
        except BadInputError as error:
            yield Failed(job.id, "bad_request", str(error), retry=False)
        except KeyError:
            message = f"this worker does not know the kind {job.kind!r}"
            yield Failed(job.id, "unknown_kind", message, retry=True)


def _request(job: ClaimedJob, parsed: dict[UUID, Creative]) -> KindRequest:
    if job.part is not None:
        part = job.part
        creative = parsed.get(part.creative_id)
        if creative is None:
            creative = Creative.from_parameters(part.creative, job.kind, part.parameters)
            parsed[part.creative_id] = creative
        return creatives.render(creative, part.row, part.recipient_key, job.id)
    kind = KINDS[job.kind]
    try:
        request = kind.Request.model_validate(job.request)
    except ValidationError as error:
        # Not its own text, which quotes the values.
        raise BadInputError(*from_validation(error, kind.Request)) from error
    if request.seed is None:
        request = request.model_copy(update={"seed": derived_seed(str(job.id))})
    return request


def by_uses(items: Iterable[Item]) -> Iterator[tuple[tuple[AdapterUse, ...], list[Item]]]:
    """The items that want the same adapters, together."""
    alike: dict[tuple[AdapterUse, ...], list[Item]] = {}
    for item in items:
        alike.setdefault(item.request.uses, []).append(item)
    yield from alike.items()


def facts_of(item: Item, card: ModelCard) -> dict[str, Any]:
    """What is kept with every output, whatever the family: what made it, and from what.

    ``licence`` is an SPDX expression over the model, its adapters and what other models have made
    that it started from; ``attribution`` is what they want to be said with the output.
    """
    sources = [given for inputs in item.inputs.values() for given in inputs]
    licences = [card.licence, *(adapter.licence for adapter in item.adapters)]
    licences += [given.licence or "" for given in sources]
    facts: dict[str, Any] = {
        "model": card.name,
        "revision": card.revision,
        "licence": lineage.licence_of(licences),
        "seed": item.seed,
    }
    attribution = [card.attribution, *(adapter.attribution for adapter in item.adapters)]
    attribution += [text for given in sources for text in given.attribution]
    if any(attribution):
        facts["attribution"] = lineage.attributions_of(attribution)
    if item.adapters:
        facts["adapters"] = {adapter.identity: adapter.weight for adapter in item.adapters}
    if item.inputs:
        facts["inputs"] = {
            field: [given.sha256 for given in inputs] for field, inputs in item.inputs.items()
        }
    return facts
