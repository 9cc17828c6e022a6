"""``/v1/artifacts``."""

from uuid import UUID

from fastapi import APIRouter
from fastapi.responses import RedirectResponse

from jobs import requests
from jobs.api.access import Opened, TenantId

router = APIRouter(prefix="/v1/artifacts", tags=["artifacts"])


@router.get("/{artifact_id}/content", status_code=307, response_class=RedirectResponse)
def content(artifact_id: UUID, tenant_id: TenantId, services: Opened) -> RedirectResponse:
    """Redirect to a link that is good for a few minutes: the bytes never pass through here."""
    artifact = requests.artifact(services, tenant_id, artifact_id)
    link = services.objects.presigned_get(
        artifact.object_key,
        filename=artifact.object_key.rpartition("/")[2],
        media_type=artifact.media_type,
        expires_s=services.settings.link_s,
    )
    # The link carries its own proof; a shared cache must not hand it to someone else.
    return RedirectResponse(link, 307, headers={"Cache-Control": "private, no-store"})
