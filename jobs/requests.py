"""What a tenant may ask about its work; what is not there, or another's, is `NotFoundError`."""

from typing import Any
from uuid import UUID

from jobs.kinds import KINDS
from jobs.problems import NotFoundError
from jobs.registry.choice import check_again
from jobs.services import Services
from storage import counters, models, views
from storage.ledger import cancel
from storage.lifecycle import JobStatus
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


def retry_job(services: Services, tenant_id: UUID, job_id: UUID) -> None:
    """Queue it again and wake a worker.

    Raises:
        WrongStateError: it has neither failed nor been cancelled, its campaign is cancelled, or
            what it needs has not succeeded.
        BadInputError: a licence has ended meanwhile.
    """
    with services.engine.begin() as connection:
        asked = views.parameters(connection, tenant_id, [job_id])
        cards = {card.name: card for card in models.list_models(connection)}
    check_again(cards, asked.get(job_id, {}))
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


def kinds(services: Services) -> list[dict[str, Any]]:
    """Every kind with its JSON schema, its models, and an example that works as it stands."""
    with services.engine.begin() as connection:
        cards = models.list_models(connection)
    return [
        {
            "name": kind.name,
            "summary": kind.summary,
            "makes": kind.makes,
            "inputs": dict(kind.inputs),
            "templates": sorted(kind.templates),
            "default_model": kind.default_model,
            "models": [
                card.name for card in cards if card.kind == kind.name and not card.retired_at
            ],
            "schema": kind.Request.model_json_schema(),
            "example": {"kind": kind.name, "request": dict(kind.example)},
        }
        for kind in KINDS.values()
    ]
