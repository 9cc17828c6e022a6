"""The datasets of trainings on the worker: fetched, compared with their digests, and divided."""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from uuid import UUID

from PIL import Image

from storage.datasets import Dataset
from storage.objects import ObjectMissingError, ObjectStore, picture_key, sha256_hex

ALPHA = "alpha"
"""A manifest's word for a mask that is the picture's own alpha channel."""


class DataError(ValueError):
    """The bucket has not what was registered, or has it no more."""


@dataclass(frozen=True)
class PictureItem:
    """A picture of a dataset, as its PNG; ``mask`` is another PNG, `ALPHA`, or None."""

    name: str
    png: bytes
    caption: str
    mask: bytes | str | None = None

    def image(self) -> Image.Image:
        """RGBA where the picture has an alpha channel, else RGB."""
        image = Image.open(io.BytesIO(self.png), formats=["PNG"])
        return image.convert("RGBA" if image.mode in ("RGBA", "LA", "PA") else "RGB")

    def mask_image(self) -> Image.Image | None:
        """L, in the picture's size: white counts."""
        if self.mask is None:
            return None
        if isinstance(self.mask, str):
            return self.image().convert("RGBA").getchannel("A")
        return Image.open(io.BytesIO(self.mask), formats=["PNG"]).convert("L")


@dataclass(frozen=True)
class Data:
    """A dataset's content in memory: pictures, or texts as their manifest's lines."""

    digest: str
    trigger: str | None
    pictures: Sequence[PictureItem] = ()
    texts: Sequence[Mapping[str, Any]] = ()

    @cached_property
    def count(self) -> int:
        """How many items there are."""
        return len(self.pictures) or len(self.texts)

    def divided(self, held_out: float, seed: int) -> tuple[list[int], list[int]]:
        """The items that are learnt, and those that are only evaluated on.

        By a hash of the item's number and the seed; at least one is held out of a share that is
        not 0, and at least one is not.
        """
        ranked = sorted(
            range(self.count),
            key=lambda n: hashlib.sha256(f"{seed}/{self.digest}/{n}".encode()).digest(),
        )
        out = min(max(round(self.count * held_out), 1), self.count - 1) if held_out else 0
        return sorted(ranked[out:]), sorted(ranked[:out])


def fetch(objects: ObjectStore, tenant_id: UUID, dataset: Dataset) -> Data:
    """The dataset's content.

    Raises:
        DataError: something is not what was registered.
        ObjectStoreError: the bucket does not answer.
    """
    try:
        manifest = objects.get(dataset.manifest_key)
    except ObjectMissingError as error:
        raise DataError(f"dataset {dataset.name!r}: its manifest is gone") from error
    if sha256_hex(manifest) != dataset.digest:
        raise DataError(f"dataset {dataset.name!r}: its manifest is not the one registered")
    items = list(_lines(manifest))
    if dataset.kind == "text":
        return Data(dataset.digest, dataset.trigger, texts=items)

    def picture(sha256: str) -> bytes:
        try:
            png = objects.get(picture_key(tenant_id, sha256))
        except ObjectMissingError as error:
            raise DataError(f"dataset {dataset.name!r}: picture {sha256} is gone") from error
        if sha256_hex(png) != sha256:
            raise DataError(f"dataset {dataset.name!r}: picture {sha256} has other bytes")
        return png

    pictures = [
        PictureItem(
            item["file"],
            picture(item["picture"]),
            item["caption"],
            item["mask"] if item["mask"] in (None, ALPHA) else picture(item["mask"]),
        )
        for item in items
    ]
    return Data(dataset.digest, dataset.trigger, pictures=pictures)


def _lines(manifest: bytes) -> Iterator[Mapping[str, Any]]:
    for line in manifest.splitlines():
        yield json.loads(line)
