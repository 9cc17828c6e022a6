"""Bodies that are read up to a limit, and forms with one file in them."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from fastapi import HTTPException, Request
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser

MAX_FIELDS = 8


async def bounded(
    request: Request, max_bytes: int, too_large: Exception
) -> AsyncGenerator[bytes, None]:
    """The body as it arrives; ``too_large`` is raised when it has more than ``max_bytes``."""
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise too_large
        yield chunk


@asynccontextmanager
async def opened(request: Request, max_bytes: int, too_large: Exception) -> AsyncIterator[FormData]:
    """A form, its file on the disk where it is large.

    Raises:
        HTTPException: 400, it is no form.
    """
    # Starlette's own way to read forms has no limit on the size of files.
    parser = MultiPartParser(
        request.headers,
        bounded(request, max_bytes, too_large),
        max_files=1,
        max_fields=MAX_FIELDS,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise HTTPException(400, error.message) from error
    try:
        yield form
    finally:
        await form.close()
