"""The cut-outs that the model was trained on, and compositions of them in batches."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from workers.training import compositions
from workers.training.compositions import BACKGROUNDS

METADATA = "metadata.jsonl"
COLOURS = tuple(BACKGROUNDS)


@dataclass(frozen=True)
class CutOuts:
    """A picture of each item, by the item's name, and the sha256 of all of them."""

    pictures: Mapping[str, Image.Image]
    sha256: str

    @property
    def names(self) -> tuple[str, ...]:
        """The items, in the order that judges know them in."""
        return tuple(self.pictures)


@dataclass(frozen=True)
class Composed:
    """A composition and what it is of."""

    picture: Image.Image
    item: str
    colour: str


def read(folder: Path) -> CutOuts:
    """The cut-outs of an imagefolder, whose captions are the items' names.

    Raises:
        ValueError: it has no captions, or one of them twice.
    """
    metadata = folder / METADATA
    if not metadata.is_file():
        raise ValueError(f"{folder} is no imagefolder of cut-outs: it has no {METADATA}")
    lines = [json.loads(line) for line in metadata.read_text(encoding="utf-8").splitlines()]
    files = {line["text"]: folder / line["file_name"] for line in lines}
    if len(files) < len(lines):
        raise ValueError(f"{metadata}: two pictures have the same text; a judge needs one an item")
    digest = hashlib.sha256()
    pictures = {}
    for name, file in sorted(files.items()):
        digest.update(f"{name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
        with Image.open(file) as picture:
            pictures[name] = picture.convert("RGBA")
    return CutOuts(pictures, digest.hexdigest())


def composed(
    rng: np.random.Generator,
    cut_outs: CutOuts,
    pairs: Sequence[tuple[str, str]],
    size_px: int,
    change: Callable[[np.random.Generator, Image.Image], Image.Image] | None = None,
) -> list[Composed]:
    """A composition of each pair of item and colour, changed after it."""
    made = []
    for item, colour in pairs:
        composition = compositions.draw(rng, BACKGROUNDS[colour])
        picture = compositions.render(cut_outs.pictures[item], composition, size_px)
        made.append(Composed(change(rng, picture) if change else picture, item, colour))
    return made


def pairs_drawn(
    rng: np.random.Generator, cut_outs: CutOuts, count: int, colours: Sequence[str] = COLOURS
) -> list[tuple[str, str]]:
    """So many pairs: every item equally often, up to one, each time with any of the colours."""
    whole = -(-count // len(cut_outs.names))
    order = np.concatenate([rng.permutation(len(cut_outs.names)) for _ in range(whole)])[:count]
    items = (cut_outs.names[int(index)] for index in order)
    return [(item, colours[int(rng.integers(len(colours)))]) for item in items]
