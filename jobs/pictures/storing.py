"""A tenant's pictures in the bucket, each under the digest of its bytes."""

from uuid import UUID

from jobs.campaigns.keys import object_key
from jobs.pictures.cleaning import Picture, clean
from jobs.pictures.formats import MAX_BYTES
from storage.objects import ObjectStore, picture_key


def store(objects: ObjectStore, tenant_id: UUID, data: bytes) -> Picture:
    """Clean what was uploaded, and store it; the same picture again changes nothing.

    Raises:
        PictureError: it is refused.
    """
    picture = clean(data)
    key = picture_key(tenant_id, picture.sha256)
    if not objects.exists(key):
        objects.put(key, picture.png, "image/png")
    return picture


def store_file(objects: ObjectStore, tenant_id: UUID, key: str) -> Picture:
    """The same with a file of the tenant's in the bucket.

    Raises:
        PictureError: it is refused.
        ObjectMissingError: there is none.
    """
    return store(objects, tenant_id, read_file(objects, tenant_id, key))


def read_file(objects: ObjectStore, tenant_id: UUID, key: str) -> bytes:
    """A file's bytes, of one that is too large only so many that it shows.

    Raises:
        ObjectMissingError: there is none.
    """
    with objects.open(object_key(tenant_id, key)) as file:
        return file.stream.read(MAX_BYTES + 1)


def reference(picture: Picture) -> str:
    """What requests call it."""
    return f"picture:{picture.sha256}"
