"""``/v1/files``."""

from fastapi import APIRouter

from jobs import files
from jobs.api.access import Opened, TenantId
from jobs.api.bodies import UploadLink

router = APIRouter(prefix="/v1/files", tags=["files"])


@router.post("/{key:path}")
def upload_link(key: str, tenant_id: TenantId, services: Opened) -> UploadLink:
    """A link to which a file of your tenant can be PUT; campaigns name it by its key."""
    url = files.upload_link(services, tenant_id, key)
    return UploadLink(key=key, url=url, expires_s=services.settings.link_s)
