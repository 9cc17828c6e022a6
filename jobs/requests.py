"""What a tenant may ask about its work; what is not there, or another's, is `NotFoundError`."""

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

from jobs.kinds import KINDS, Kind
from jobs.problems import NotFoundError
from jobs.registry.choice import check_again
from jobs.services import Services
from jobs.trainings import bases, submitting
from jobs.trainings.requests import TRAININGS
from storage import counters, models, trainings, views
from storage.ledger import cancel, pause
from storage.lifecycle import JobStatus
from storage.models import ModelCard
from storage.views import ArtifactView, CampaignView, JobView


def job(services: Services, tenant_id: UUID, job_id: UUID) -> JobView:
    """The job with its artifacts."""
    with services.engine.begin() as connection:
        found = views.job(connection, tenant_id, job_id)
    if found is None:
        raise NotFoundError(f"there is no job {job_id}")
    return found


def campaign(services: Services, tenant_id: UUID, campaign_id: UUID) -> CampaignView:
    """The campaign with its counts."""
    with services.engine.begin() as connection:
        found = views.campaign(connection, tenant_id, campaign_id)
    if found is None:
        raise NotFoundError(f"there is no campaign {campaign_id}")
    return found


def artifact(services: Services, tenant_id: UUID, artifact_id: UUID) -> ArtifactView:
    """The artifact."""
    with services.engine.begin() as connection:
        found = views.artifact(connection, tenant_id, artifact_id)
    if found is None:
        raise NotFoundError(f"there is no artifact {artifact_id}")
    return found


def cancel_job(services: Services, tenant_id: UUID, job_id: UUID) -> JobStatus:
    """Cancel it; ``running`` means that its worker has been told.

    Raises:
        WrongStateError: it has ended otherwise.
    """
    status = cancel.cancel_job(services.engine, tenant_id, job_id)
    if status is None:
        raise NotFoundError(f"there is no job {job_id}")
    return status


def pause_job(services: Services, tenant_id: UUID, job_id: UUID) -> JobStatus:
    """Have it wait until it is resumed; ``running`` means that its worker has been told.

    Raises:
        WrongStateError: it has ended, waits for what it needs, or is part of a campaign.
    """
    status = pause.pause_job(services.engine, tenant_id, job_id)
    if status is None:
        raise NotFoundError(f"there is no job {job_id}")
    return status


def resume_job(services: Services, tenant_id: UUID, job_id: UUID) -> None:
    """Queue it again and wake a worker; one that has not stopped yet just goes on.

    Raises:
        WrongStateError: it is not paused.
    """
    pool = pause.resume_job(services.engine, tenant_id, job_id)
    if pool is None:
        raise NotFoundError(f"there is no job {job_id}")
    services.wake_ups.send(pool)


def retry_job(services: Services, tenant_id: UUID, job_id: UUID) -> None:
    """Queue it again and wake a worker; a training goes on from its last checkpoint.

    Raises:
        WrongStateError: it has neither failed nor been cancelled, its campaign is cancelled, or
            what it needs has not succeeded.
        BadInputError: a licence has ended meanwhile, or a training's dataset was removed, or its
            name was taken.
    """
    with services.engine.begin() as connection:
        asked = views.parameters(connection, tenant_id, [job_id])
        cards = {card.name: card for card in models.list_models(connection, tenant_id)}
        check_again(cards, asked.get(job_id, {}))
        training = trainings.find(connection, tenant_id, job_id)
    if training and training.status in (JobStatus.FAILED, JobStatus.CANCELLED):
        name = training.request["name"]
        with trainings.held_name(services.engine, tenant_id, name) as connection:
            submitting.check_again(connection, tenant_id, training)
            pool = cancel.retry_job(services.engine, tenant_id, job_id)
    else:
        pool = cancel.retry_job(services.engine, tenant_id, job_id)
    if pool is None:
        raise NotFoundError(f"there is no job {job_id}")
    services.wake_ups.send(pool)


def cancel_campaign(services: Services, tenant_id: UUID, campaign_id: UUID) -> None:
    """From now on none of its jobs starts; the sweeper cancels them one chunk after another."""
    if not cancel.cancel_campaign(services.engine, tenant_id, campaign_id):
        raise NotFoundError(f"there is no campaign {campaign_id}")


def reconcile_campaign(
    services: Services, tenant_id: UUID, campaign_id: UUID
) -> dict[JobStatus, int]:
    """Make its counters equal a count of its jobs, and give what was added to which."""
    campaign(services, tenant_id, campaign_id)
    return counters.reconcile(services.engine, campaign_id)


def kinds(services: Services, tenant_id: UUID) -> list[dict[str, Any]]:
    """Every kind with its JSON schema, its models, and an example that works as it stands.

    Those of `TRAININGS` come last. They have no default model, and their examples name a dataset
    and a model of the tenant's, which may have other names.
    """
    with services.engine.begin() as connection:
        cards = models.list_models(connection, tenant_id)
    return [*(_kind(kind, cards) for kind in KINDS.values()), *_trainings(cards)]


def _kind(kind: Kind, cards: Sequence[ModelCard]) -> dict[str, Any]:
    return {
        "name": kind.name,
        "summary": kind.summary,
        "makes": kind.makes,
        "inputs": dict(kind.inputs),
        "templates": sorted(kind.templates),
        "default_model": kind.default_model,
        "models": [card.name for card in cards if card.kind == kind.name and not card.retired_at],
        "schema": kind.Request.model_json_schema(),
        "example": {"kind": kind.name, "request": dict(kind.example)},
    }


def _trainings(cards: Sequence[ModelCard]) -> Iterator[dict[str, Any]]:
    about = {
        "finetune": (
            "A LoRA for a model, from pictures or texts.",
            "adapter",
            [card.name for card in cards if bases.may_be_one(card) and not card.retired_at],
            {"name": "brand", "dataset": "brand", "model": "debug-diffusion", "size": "64x64"},
        ),
        "train": (
            "A model from scratch: a GAN, a VAE, or a small text-to-image pipeline.",
            "model",
            [],
            {"name": "things", "dataset": "things", "architecture": {"type": "vae"}},
        ),
    }
    for name, request in TRAININGS.items():
        summary, makes, bases_, example = about[name]
        yield {
            "name": name,
            "summary": summary,
            "makes": makes,
            "inputs": {},
            "templates": [],
            "default_model": None,
            "models": bases_,
            "schema": request.model_json_schema(),
            "example": {"kind": name, "request": example},
        }
