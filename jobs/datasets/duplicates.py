"""Items that are there more than once, or nearly so."""

from collections.abc import Iterator, Sequence

import imagehash
import numpy as np
from PIL import Image

NEAR_BITS = 6
"""Up to how many of the 64 bits of their perceptual hashes two pictures count as nearly the same.

Measured on 206 drawings of single objects: halved and saved as JPEG each differs in at most 4 bits
from itself, with a margin of 2 % cut off nine of ten in at most 6; of their 21,115 pairs one is as
near as that (two sorts of fir tree), and the average pair differs in 28.
"""


def perceptual_hash(image: Image.Image) -> int:
    """64 bits by the discrete cosine transform of the picture in grey (ImageHash's ``phash``)."""
    return int(str(imagehash.phash(image)), 16)


def near(hashes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The places of each two whose hashes differ in at most `NEAR_BITS`, the first one first."""
    bits = np.array(hashes, dtype=np.uint64)
    for place in range(len(bits)):
        distances = np.bitwise_count(bits[place + 1 :] ^ bits[place])
        for found in np.flatnonzero(distances <= NEAR_BITS):
            yield place, place + 1 + int(found)


def same(keys: Sequence[str]) -> Iterator[tuple[int, int]]:
    """The place of each key that was there before, behind the place where it was first."""
    first: dict[str, int] = {}
    for place, key in enumerate(keys):
        before = first.setdefault(key, place)
        if before != place:
            yield before, place
