"""``/v1/pictures``."""

from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request
from starlette.datastructures import UploadFile

from jobs.api import forms
from jobs.api.access import Opened, TenantId
from jobs.api.bodies import Picture
from jobs.api.documents import media_type
from jobs.pictures import storing
from jobs.pictures.errors import PictureTooLargeError
from jobs.pictures.formats import MAX_BYTES, too_large
from jobs.problems import BadInputError, Problem

router = APIRouter(prefix="/v1/pictures", tags=["pictures"])

FORM_BYTES = 64 * 1024
"""What a form may have around its file."""

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "image/png": _BINARY,
            "image/jpeg": _BINARY,
            "image/webp": _BINARY,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}


# It asks for the tenant, so that no body is read for nobody.
async def _upload(request: Request, _: TenantId) -> bytes:
    """The bytes of the picture; never more than the limit are read.

    What the body is said to be chooses no more than the way it is read: its content decides.
    """
    kind = media_type(request)
    if kind == "multipart/form-data":
        return await _form_file(request)
    if not kind.startswith("image/") and kind != "application/octet-stream":
        raise HTTPException(415, "send the picture itself (image/png...) or multipart/form-data")
    chunks = forms.bounded(request, MAX_BYTES, PictureTooLargeError(too_large()))
    return b"".join([chunk async for chunk in chunks])


async def _form_file(request: Request) -> bytes:
    too_large_form = PictureTooLargeError(too_large())
    async with forms.opened(request, MAX_BYTES + FORM_BYTES, too_large_form) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise BadInputError(Problem("is required, as a file", field="file"))
        return await file.read()


@router.post("", status_code=201, openapi_extra=_BODY)
def upload(
    data: Annotated[bytes, Depends(_upload)], tenant_id: TenantId, services: Opened
) -> Picture:
    """Upload a picture (PNG, JPEG, WebP) for jobs to start from, and get its reference.

    It is decoded and written anew without metadata; the same picture has the same reference.
    """
    stored = storing.store(services.objects, tenant_id, data)
    return Picture(picture=storing.reference(stored), width=stored.width, height=stored.height)
