"""``/v1/jobs`` and ``/v1/kinds``."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request

from jobs import requests, submissions
from jobs.api.access import Opened, TenantId
from jobs.api.bodies import Job, JobPage, Kind
from jobs.api.documents import json_text
from jobs.submissions import JobSubmission
from storage import views
from storage.lifecycle import JobStatus

router = APIRouter(prefix="/v1", tags=["jobs"])

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=200,
        description="The same key and request give the same answer again.",
    ),
]
Limit = Annotated[int, Query(ge=1, le=1000)]


SUBMISSION = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": JobSubmission.model_json_schema()}},
    }
}


# It asks for the tenant, so that no body is read for nobody.
async def submission_of(request: Request, _: TenantId) -> JobSubmission:
    """The job in the body of a request."""
    return submissions.parse_job(await json_text(request), "body")


@router.post("/jobs", status_code=202, openapi_extra=SUBMISSION)
def submit(
    submission: Annotated[JobSubmission, Depends(submission_of)],
    tenant_id: TenantId,
    services: Opened,
    idempotency_key: IdempotencyKey = None,
) -> Job:
    """Queue one job."""
    job_id = submissions.submit_job(
        services, tenant_id, submission, idempotency_key=idempotency_key
    )
    return Job.of(requests.job(services, tenant_id, job_id))


@router.get("/jobs")
def list_jobs(
    tenant_id: TenantId,
    services: Opened,
    campaign: UUID | None = None,
    status: JobStatus | None = None,
    after: Annotated[UUID | None, Query(description="`next` of the page before.")] = None,
    limit: Limit = 100,
) -> JobPage:
    """The jobs of your tenant, oldest first."""
    with services.engine.begin() as connection:
        found = views.jobs(
            connection, tenant_id, campaign_id=campaign, status=status, after=after, limit=limit
        )
    return JobPage.of(found, limit)


@router.get("/jobs/{job_id}")
def show(job_id: UUID, tenant_id: TenantId, services: Opened) -> Job:
    """One job: its status, and its artifacts once it has succeeded."""
    return Job.of(requests.job(services, tenant_id, job_id))


@router.post("/jobs/{job_id}/cancel")
def cancel(job_id: UUID, tenant_id: TenantId, services: Opened) -> Job:
    """Cancel a job; one that is running stops between two steps."""
    requests.cancel_job(services, tenant_id, job_id)
    return Job.of(requests.job(services, tenant_id, job_id))


@router.post("/jobs/{job_id}/pause")
def pause(job_id: UUID, tenant_id: TenantId, services: Opened) -> Job:
    """Pause a single job; a running training stops at its next step, anything else just ends."""
    requests.pause_job(services, tenant_id, job_id)
    return Job.of(requests.job(services, tenant_id, job_id))


@router.post("/jobs/{job_id}/resume", status_code=202)
def resume(job_id: UUID, tenant_id: TenantId, services: Opened) -> Job:
    """Queue a paused job again; a training goes on from where it stopped."""
    requests.resume_job(services, tenant_id, job_id)
    return Job.of(requests.job(services, tenant_id, job_id))


@router.post("/jobs/{job_id}/retry", status_code=202)
def retry(job_id: UUID, tenant_id: TenantId, services: Opened) -> Job:
    """Queue a failed or cancelled job again; what ended because of it waits for it once more."""
    requests.retry_job(services, tenant_id, job_id)
    return Job.of(requests.job(services, tenant_id, job_id))


@router.get("/kinds")
def kinds(tenant_id: TenantId, services: Opened) -> list[Kind]:
    """What can be made, with a request that works as it stands; trainings come last."""
    return [Kind.model_validate(kind) for kind in requests.kinds(services, tenant_id)]
