"""Taking trainings in: all that can be wrong is found before one is queued."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from pydantic import ValidationError
from sqlalchemy import Connection

from jobs.datasets import triggers
from jobs.kinds.sizes import parse_size
from jobs.kinds.values import derived_seed
from jobs.problems import BadInputError, ConflictError, Problem, nearest
from jobs.registry import lineage
from jobs.registry.choice import Use, choose
from jobs.services import Services
from jobs.trainings import bases, caps, continuing, estimates, parts
from jobs.trainings.architectures import (
    DENOISER_GROUPS,
    GAN_SIDES_PX,
    GanArchitecture,
    TextToImageArchitecture,
    VaeArchitecture,
)
from jobs.trainings.estimates import Estimate
from jobs.trainings.labels import labels_of
from jobs.trainings.presets import filled
from jobs.trainings.requests import (
    TRAININGS,
    FinetuneRequest,
    Training,
    TrainRequest,
    problems_of,
)
from storage import datasets, models, tenants, trainings
from storage.datasets import Dataset
from storage.ledger import submit as ledger
from storage.ledger.submit import IdempotencyConflictError, NewJob
from storage.models import ModelCard
from storage.objects import ObjectStore
from storage.trainings import TrainingJob

POOL = "default"
"""Of trainings from scratch."""


@dataclass(frozen=True)
class Checked:
    """A training that can be queued: its request complete, and what it is made from."""

    kind: str
    request: Training
    dataset: Dataset
    base: ModelCard | None
    estimate: Estimate

    @property
    def steps(self) -> int:
        """Of all its parts, also those that another training has made before it."""
        return sum(part.steps for part in parts.parts_of(self.request, self.base))

    @property
    def pool(self) -> str:
        """The workers that it is for: those of the model, if it is for one."""
        return self.base.pool if self.base else POOL


def check(
    services: Services,
    tenant_id: UUID,
    kind: str,
    given: Mapping[str, Any],
    use: Use,
    *,
    idempotency_key: str | None = None,
    dataset: Dataset | None = None,
    takes_name: bool = True,
) -> Checked:
    """What a request asks for, once nothing is wrong with it.

    ``dataset`` is the one that the request names, where it has yet to be stored; ``takes_name``
    False: the request is only looked at, and its name may be another's.

    Raises:
        BadInputError: all that is wrong, by field.
    """
    try:
        request: Training = TRAININGS[kind].model_validate(given)
    except ValidationError as error:
        raise BadInputError(*problems_of(error, kind)) from error
    problems: list[Problem] = []
    with services.engine.begin() as connection:
        cards = {card.name: card for card in models.list_models(connection, tenant_id)}
        found = dataset
        if found is None:
            found, problems = _dataset(connection, tenant_id, request)
        # Submitted again under its key, it is the job that is there.
        is_there = idempotency_key and trainings.has_key(connection, tenant_id, idempotency_key)
        if takes_name and not is_there:
            problems += _name_problems(connection, tenant_id, request.name)
        request, before, wrong = continuing.continued(connection, tenant_id, kind, request)
        problems += wrong
    base, wrong = _base(services, cards, request, use)
    problems += wrong
    if found and (base or isinstance(request, TrainRequest)):
        problems += list(_dataset_problems(found, request, base))
        if isinstance(request, TrainRequest) and dataset is None:
            problems += list(_label_problems(services.objects, found, request))
    if problems:
        raise BadInputError(*problems)
    assert found
    if request.seed is None:
        seed = derived_seed(str(tenant_id), request.name)
        request = request.model_copy(update={"seed": seed})
    complete = filled(request, found, bases.preset_of(services.objects, base) if base else None)
    with services.engine.begin() as connection:
        limits = caps.caps_of(connection, services.settings, tenant_id)
        checked = Checked(
            kind, complete, found, base, _estimate(connection, complete, before, base)
        )
    problems = list(caps.problems_of(limits, checked.steps, found, checked.estimate))
    if problems:
        raise BadInputError(*problems)
    return checked


def _base(
    services: Services, cards: Mapping[str, ModelCard], request: Training, use: Use
) -> tuple[ModelCard | None, list[Problem]]:
    """The model that the training is for, if it is for one, and what is wrong with that."""
    if not isinstance(request, FinetuneRequest):
        return None, list(_scratch_problems(request))
    try:
        chosen = choose(cards, request.model, (), use)
    except BadInputError as error:
        return None, list(error.problems)
    with services.engine.begin() as connection:
        base = models.find(connection, chosen.name)  # those of a list lack their manifests
    assert base
    return base, bases.problems_of(services.objects, base, request)


def _estimate(
    connection: Connection, request: Training, before: Training | None, base: ModelCard | None
) -> Estimate:
    """Of what is left to do after what was done ``before``."""
    done = sum(part.steps for part in parts.parts_of(before, base)) if before else 0
    return estimates.estimate(connection, parts.after(parts.parts_of(request, base), done))


def check_again(connection: Connection, tenant_id: UUID, job: TrainingJob) -> None:
    """BadInputError if a training that has failed, or was cancelled, must not be tried again."""
    request: Training = TRAININGS[job.kind].model_validate(job.request)
    _, problems = _dataset(connection, tenant_id, request)
    problems += _name_problems(connection, tenant_id, request.name)
    if problems:
        raise BadInputError(*problems)


def submit(
    services: Services,
    tenant_id: UUID,
    checked: Checked,
    *,
    priority: int = 0,
    idempotency_key: str | None = None,
) -> UUID:
    """Queue a training, wake a worker, and give the job's id.

    Raises:
        BadInputError: its name was taken a moment ago.
        ConflictError: the idempotency key was used for something else.
    """
    job = NewJob(
        tenant_id=tenant_id,
        kind=checked.kind,
        pool=checked.pool,
        batch_key=uuid4().hex,  # it shares a claim with no other
        request=checked.request.model_dump(mode="json"),
        priority=priority,
        idempotency_key=idempotency_key,
    )
    name = checked.request.name
    with trainings.held_name(services.engine, tenant_id, name) as connection:
        is_there = idempotency_key and trainings.has_key(connection, tenant_id, idempotency_key)
        problems = [] if is_there else _name_problems(connection, tenant_id, name)
        if problems:
            raise BadInputError(*problems)
        try:
            job_id = ledger.submit_job(services.engine, job)
        except IdempotencyConflictError as error:
            raise ConflictError("the Idempotency-Key was used for a different job") from error
    services.wake_ups.send(checked.pool)
    return job_id


def _dataset(
    connection: Connection, tenant_id: UUID, request: Training
) -> tuple[Dataset | None, list[Problem]]:
    found = datasets.find(connection, tenant_id, request.dataset)
    if found is None:
        known = [one.name for one in datasets.every(connection, tenant_id) if not one.removed_at]
        hint = nearest(request.dataset, known)
        message = f"you have no dataset {request.dataset!r}; {hint}".removesuffix("; ")
        return None, [Problem(message, field="dataset")]
    if found.removed_at:
        message = f"dataset {found.name!r} was removed: nothing more is trained on it"
        return None, [Problem(message, field="dataset")]
    return found, []


def _name_problems(connection: Connection, tenant_id: UUID, name: str) -> list[Problem]:
    full_name = models.own_name(tenants.get(connection, tenant_id).name, name)
    if models.find(connection, full_name):
        return [Problem(f"there is {full_name!r} already; choose another name", field="name")]
    for job in trainings.unfinished(connection, tenant_id, name):
        message = f"training {job.id}, which is {job.status.value}, will make it; choose another"
        return [Problem(message, field="name")]
    return []


def _dataset_problems(
    dataset: Dataset, request: Training, base: ModelCard | None
) -> Iterator[Problem]:
    wanted = "text" if base and base.kind == "text" else "pictures"
    if dataset.kind != wanted:
        message = f"dataset {dataset.name!r} is of {dataset.kind}; this learns from {wanted}"
        yield Problem(message, field="dataset")
    prior = request.prior if isinstance(request, FinetuneRequest) else None
    if prior and dataset.trigger and triggers.uses(dataset.trigger, [prior.prompt]):
        message = f"is the class in general: leave the dataset's trigger {dataset.trigger!r} out"
        yield Problem(message, field="prior.prompt")
    try:
        lineage.terms_of([base] if base else [], dataset, commercial=request.commercial)
    except BadInputError as error:
        yield from error.problems


def _scratch_problems(request: TrainRequest) -> Iterator[Problem]:
    width, height = parse_size(request.size)
    if width != height or width % 8 or not 16 <= width <= 1024:  # noqa: PLR2004
        message = (
            f"{request.size}: pictures are square here, and a side is a multiple of 8, up to 1024"
        )
        yield Problem(message, field="size")
    spec = request.architecture
    if isinstance(spec, GanArchitecture):
        yield from _gan_problems(request, width)
    if isinstance(spec, VaeArchitecture):
        factor = 2 ** (len(spec.widths) - 1)
        if width % factor:
            message = f"{request.size}: {len(spec.widths)} widths need a multiple of {factor}"
            yield Problem(message, field="size")
    if not isinstance(spec, TextToImageArchitecture) and request.sample_prompts:
        message = f"a {spec.type} is asked nothing: leave them out"
        yield Problem(message, field="sample_prompts")
    if isinstance(spec, TextToImageArchitecture):
        yield from _width_problems(spec)
        if spec.judge and not spec.compose:
            message = "a judge knows items by their captions: it needs compose"
            yield Problem(message, field="architecture.judge")


def _width_problems(spec: TextToImageArchitecture) -> Iterator[Problem]:
    widths, heads = spec.denoiser.widths, spec.denoiser.heads
    if any(width % DENOISER_GROUPS for width in widths):
        message = f"must be multiples of {DENOISER_GROUPS}"
        yield Problem(message, field="architecture.denoiser.widths")
    if len(heads) != len(widths):
        message = "must have one number for each of widths"
        yield Problem(message, field="architecture.denoiser.heads")
    elif any(width % count for width, count in zip(widths, heads, strict=True)):
        message = "must each divide their width"
        yield Problem(message, field="architecture.denoiser.heads")
    if spec.text_encoder.width % spec.text_encoder.heads:
        yield Problem("must divide width", field="architecture.text_encoder.heads")


def _gan_problems(request: TrainRequest, side_px: int) -> Iterator[Problem]:
    if side_px not in GAN_SIDES_PX:
        known = ", ".join(f"{side}x{side}" for side in GAN_SIDES_PX)
        message = f"{request.size}: a gan makes pictures of one of the sizes {known}"
        yield Problem(message, field="size")
    if request.precision == "bfloat16":
        message = "a gan's networks are small, and learn in float32"
        yield Problem(message, field="precision")


def _label_problems(
    objects: ObjectStore, dataset: Dataset, request: TrainRequest
) -> Iterator[Problem]:
    spec = request.architecture
    if not isinstance(spec, GanArchitecture) or not spec.labels or dataset.kind != "pictures":
        return
    lines = objects.get(dataset.manifest_key).splitlines()
    try:
        labels_of(json.loads(line)["caption"] for line in lines)
    except ValueError as error:
        yield Problem(f"dataset {dataset.name!r}: {error}", field="architecture.labels")
