"""The JSON documents that requests carry: their type, their size, and where they are wrong."""

from fastapi import HTTPException, Request

from jobs.campaigns.recipients import decode

MAX_JSON_BYTES = 32 * 1024 * 1024
"""Read as a whole; a campaign whose recipients need more than this comes as a file."""


def media_type(request: Request) -> str:
    """What the body is said to be, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def json_text(request: Request) -> str:
    """The body of a request that must be JSON.

    Raises:
        BadInputError: it is not UTF-8.
        HTTPException: 415 for another media type, 413 for more than `MAX_JSON_BYTES`.
    """
    if media_type(request) != "application/json":
        raise HTTPException(415, "send JSON, with `Content-Type: application/json`")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_JSON_BYTES:
            raise HTTPException(
                413,
                f"more than {MAX_JSON_BYTES // 1024**2} MiB of JSON: "
                "send a campaign's recipients as a file (multipart/form-data)",
            )
    return decode(bytes(body), "body")
