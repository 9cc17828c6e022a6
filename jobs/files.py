"""A tenant's own files in the bucket, such as the recipients of its campaigns."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from jobs.campaigns.keys import has_date, object_key
from jobs.problems import BadInputError, Problem
from jobs.services import Services


@dataclass(frozen=True)
class RecipientsFile:
    """An open recipients file. ``name`` is what errors call it, and decides the format.

    ``version``, where it is known, changes with the content; without it the stream can seek.
    """

    name: str
    stream: BinaryIO
    version: str | None = None


@contextmanager
def opened(services: Services, tenant_id: UUID, key: str) -> Iterator[RecipientsFile]:
    """The tenant's file of that key, read as it is needed.

    Raises:
        ObjectMissingError: there is none.
    """
    with services.objects.open(object_key(tenant_id, key)) as found:
        yield RecipientsFile(key, found.stream, found.etag)


def missing(key: str) -> str:
    """What is said where `opened` finds nothing."""
    return f"the bucket has no file {key}; put it there with `presswork file put LOCAL {key}`"


def put(services: Services, tenant_id: UUID, path: Path, key: str) -> None:
    """Store a local file under ``key``, in the place of what was there.

    Raises:
        BadInputError: that is no key.
    """
    place = _place(tenant_id, key)
    with path.open("rb") as file:
        services.objects.put_file(place, file)


def upload_link(services: Services, tenant_id: UUID, key: str) -> str:
    """A link to which the tenant's file can be PUT: the bytes never pass through here.

    Raises:
        BadInputError: that is no key.
    """
    place = _place(tenant_id, key)
    return services.objects.presigned_put(place, expires_s=services.settings.link_s)


def _place(tenant_id: UUID, key: str) -> str:
    if has_date(key):
        raise BadInputError(Problem("write the date out", field="key"))
    try:
        return object_key(tenant_id, key)
    except ValueError as error:
        raise BadInputError(Problem(str(error), field="key")) from error
