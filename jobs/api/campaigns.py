"""``/v1/campaigns``."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, HTTPException, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from jobs import requests, submissions
from jobs.api.access import Opened, TenantId
from jobs.api.bodies import Campaign, CampaignPage, JobPage
from jobs.api.documents import json_text, media_type
from jobs.api.jobs import IdempotencyKey, Limit
from jobs.campaigns import document
from jobs.campaigns import file as campaign_file
from jobs.campaigns.file import CampaignSpec
from jobs.campaigns.recipients import decode
from jobs.files import RecipientsFile
from jobs.problems import BadInputError, Problem
from jobs.services import Services
from storage import views
from storage.lifecycle import JobStatus

router = APIRouter(prefix="/v1/campaigns", tags=["campaigns"])

# A reference in an OpenAPI document starts at its root, not at the schema that makes it.
_REFERENCE = (
    "#/paths/~1v1~1campaigns/post/requestBody/content/application~1json/schema/$defs/{model}"
)
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": CampaignSpec.model_json_schema(ref_template=_REFERENCE)},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["campaign", "recipients"],
                    "properties": {
                        "campaign": {"type": "string", "description": "The campaign, YAML or JSON"},
                        "recipients": {
                            "type": "string",
                            "format": "binary",
                            "description": "A .csv or .jsonl file, UTF-8",
                        },
                    },
                }
            },
        },
    }
}


@router.post("", status_code=202, openapi_extra=_BODY)
async def submit(
    request: Request,
    tenant_id: TenantId,
    services: Opened,
    idempotency_key: IdempotencyKey = None,
) -> Campaign:
    """Submit a campaign: JSON with inline recipients, or multipart with a recipients file.

    The answer comes once every recipient has been checked and stored; the jobs follow.
    """
    kind = media_type(request)
    if kind == "multipart/form-data":
        async with request.form(max_files=2, max_fields=2) as form:
            campaign, upload = form.get("campaign"), form.get("recipients")
            if campaign is None:
                raise BadInputError(Problem("is required", field="campaign"))
            if not isinstance(upload, UploadFile):
                raise BadInputError(Problem("is required, as a file", field="recipients"))
            name = (campaign.filename if isinstance(campaign, UploadFile) else None) or "campaign"
            text = await _text(campaign, name)
            recipients = RecipientsFile(upload.filename or "recipients", upload.file)
            return await run_in_threadpool(
                _submit, services, tenant_id, text, name, recipients, idempotency_key
            )
    if kind == "application/json":
        text = await json_text(request)
        return await run_in_threadpool(
            _submit, services, tenant_id, text, "body", None, idempotency_key
        )
    raise HTTPException(415, "send application/json or multipart/form-data")


async def _text(part: UploadFile | str, name: str) -> str:
    if isinstance(part, str):
        return part
    raw = await part.read(document.MAX_FILE_BYTES + 1)
    if len(raw) > document.MAX_FILE_BYTES:
        raise BadInputError(Problem("is larger than 1 MiB", field="campaign"))
    return decode(raw, name)


def _submit(
    services: Services,
    tenant_id: UUID,
    text: str,
    name: str,
    recipients: RecipientsFile | None,
    idempotency_key: str | None,
) -> Campaign:
    if recipients is None:
        spec = campaign_file.from_mapping(document.parse_json(text, name))
    else:
        spec = campaign_file.parse_yaml(text, name)
    # With an upload, `recipients.file` is what the file was called where it came from.
    if recipients is None and spec.recipients.file is not None:
        raise BadInputError(
            spec.place(
                Problem("names a file on the server; upload it instead", field="recipients.file")
            )
        )
    for other in ("rows", "bucket"):
        if recipients is not None and getattr(spec.recipients, other) is not None:
            problem = f"give {other} or upload a file, not both"
            raise BadInputError(spec.place(Problem(problem, field=f"recipients.{other}")))
    campaign_id = submissions.submit_campaign(
        services, tenant_id, spec, recipients, idempotency_key=idempotency_key
    )
    return Campaign.of(requests.campaign(services, tenant_id, campaign_id))


@router.get("")
def list_campaigns(
    tenant_id: TenantId,
    services: Opened,
    before: Annotated[UUID | None, Query(description="`next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> CampaignPage:
    """The campaigns of your tenant, newest first."""
    with services.engine.begin() as connection:
        found = views.campaigns(connection, tenant_id, before=before, limit=limit)
    return CampaignPage(
        campaigns=[Campaign.of(view) for view in found],
        next=found[-1].id if len(found) == limit else None,
    )


@router.get("/{campaign_id}")
def show(campaign_id: UUID, tenant_id: TenantId, services: Opened) -> Campaign:
    """How far a campaign is."""
    return Campaign.of(requests.campaign(services, tenant_id, campaign_id))


@router.get("/{campaign_id}/jobs")
def jobs(
    campaign_id: UUID,
    tenant_id: TenantId,
    services: Opened,
    status: JobStatus | None = None,
    after: Annotated[UUID | None, Query(description="`next` of the page before.")] = None,
    limit: Limit = 100,
) -> JobPage:
    """A campaign's jobs, in the order of its recipients."""
    requests.campaign(services, tenant_id, campaign_id)
    with services.engine.begin() as connection:
        found = views.jobs(
            connection, tenant_id, campaign_id=campaign_id, status=status, after=after, limit=limit
        )
    return JobPage.of(found, limit)


@router.post("/{campaign_id}/cancel")
def cancel(campaign_id: UUID, tenant_id: TenantId, services: Opened) -> Campaign:
    """Cancel a campaign: nothing more of it starts, and what runs stops between two steps."""
    requests.cancel_campaign(services, tenant_id, campaign_id)
    return Campaign.of(requests.campaign(services, tenant_id, campaign_id))
