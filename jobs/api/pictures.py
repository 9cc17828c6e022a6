"""``/v1/pictures``."""

from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

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
    return b"".join([chunk async for chunk in _bounded(request, MAX_BYTES)])


async def _bounded(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise PictureTooLargeError(too_large())
        yield chunk


async def _form_file(request: Request) -> bytes:
    # Starlette's own way to read forms has no limit on the size of files.
    parser = MultiPartParser(
        request.headers, _bounded(request, MAX_BYTES + FORM_BYTES), max_files=1, max_fields=8
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise HTTPException(400, error.message) from error
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise BadInputError(Problem("is required, as a file", field="file"))
        return await file.read()
    finally:
        await form.close()


@router.post("", status_code=201, openapi_extra=_BODY)
def upload(
    data: Annotated[bytes, Depends(_upload)], tenant_id: TenantId, services: Opened
) -> Picture:
    """Upload a picture (PNG, JPEG, WebP) for jobs to start from, and get its reference.

    It is decoded and written anew without metadata; the same picture has the same reference.
    """
    stored = storing.store(services.objects, tenant_id, data)
    return Picture(picture=storing.reference(stored), width=stored.width, height=stored.height)
