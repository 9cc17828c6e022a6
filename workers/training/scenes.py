"""Pictures with captions for trainings from scratch: as a dataset has them, or composed from it."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from jobs.kinds.values import derived_seed
from jobs.trainings.architectures import Composing
from workers.training import compositions
from workers.training.compositions import BACKGROUNDS
from workers.training.data import Data

PATTERNED = 0.25
"""The share of patterned pictures where an autoencoder is to see some."""
_AT_A_TIME = 256
"""Pictures between two looks."""


@dataclass(frozen=True)
class Bank:
    """Pictures of one size, ``pixels`` (N, H, W, 3), with captions and the numbers of their items.

    ``items`` are classes for a judge: (N,).
    """

    pixels: NDArray[np.uint8]
    captions: Sequence[str]
    items: NDArray[np.int64]

    def batch(self, chosen: NDArray[np.int64]) -> Tensor:
        """The chosen pictures as (B, 3, H, W) in [-1, 1]."""
        return to_tensor(self.pixels[chosen])


class Scenes(Protocol):
    """Where a training from scratch has its pictures from."""

    @property
    def names(self) -> Sequence[str]:
        """What is to be recognised in them."""

    def draw(
        self, rng: np.random.Generator, number: int, *, plain: bool, patterns: bool
    ) -> "Scene":
        """The picture with that ``number`` of a bank: a function of it and of ``rng`` alone."""

    def caption(self, rng: np.random.Generator, number: int) -> str:
        """A caption that may be drawn for the picture with that number."""


Scene = tuple[Image.Image, str, int]
"""A square RGB picture, its caption, and which of the names it shows."""


def bank(
    scenes: Scenes,
    count: int,
    seed: int,
    *,
    plain: bool = True,
    patterns: bool = False,
    look: Callable[[], None] = lambda: None,
) -> Bank:
    """``count`` pictures, which depend on ``seed`` alone; items come equally often."""

    def one(number: int) -> tuple[NDArray[np.uint8], str, int]:
        rng = np.random.default_rng(derived_seed(str(seed), str(number)))
        picture, caption, item = scenes.draw(rng, number, plain=plain, patterns=patterns)
        return np.asarray(picture), caption, item

    pixels, captions, items = [], [], []
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for start in range(0, count, _AT_A_TIME):
            look()
            made = threads.map(one, range(start, min(start + _AT_A_TIME, count)))
            for picture, caption, item in made:
                pixels.append(picture)
                captions.append(caption)
                items.append(item)
    return Bank(np.stack(pixels), captions, np.array(items))


@dataclass(frozen=True)
class Composed:
    """Cut-outs on plain backgrounds, without the pairs that are held out."""

    data: Data
    composing: Composing
    size_px: int
    seed: int

    @cached_property
    def names(self) -> Sequence[str]:
        """The items."""
        return [picture.caption for picture in self.data.pictures]

    @cached_property
    def kept_out(self) -> set[tuple[str, str]]:
        """The pairs of item and background that no picture shows."""
        return compositions.held_out(self.names, BACKGROUNDS, self.composing.held_out, self.seed)

    @cached_property
    def _cut_outs(self) -> list[Image.Image]:
        return [compositions.cropped(one.image(), self.size_px) for one in self.data.pictures]

    @cached_property
    def _colours(self) -> list[list[str]]:
        return [
            [colour for colour in BACKGROUNDS if (name, colour) not in self.kept_out]
            for name in self.names
        ]

    def draw(self, rng: np.random.Generator, number: int, *, plain: bool, patterns: bool) -> Scene:
        """See `Scenes`; items come in turns."""
        item = number % len(self._cut_outs)
        colour = self._colours[item][rng.integers(len(self._colours[item]))]
        is_patterned = patterns and rng.random() < PATTERNED
        composition = compositions.draw(rng, BACKGROUNDS[colour], plain=not is_patterned)
        picture = compositions.render(self._cut_outs[item], composition, self.size_px)
        return picture, compositions.caption(rng, self.names[item], colour, plain=plain), item

    def caption(self, rng: np.random.Generator, number: int) -> str:
        """See `Scenes`."""
        name = self.names[number % len(self.names)]
        return compositions.caption(rng, name, str(rng.choice(list(BACKGROUNDS))), plain=False)


@dataclass(frozen=True)
class Shown:
    """A dataset's pictures as they are: cut to a square, and mirrored now and then."""

    data: Data
    size_px: int

    @cached_property
    def names(self) -> Sequence[str]:
        """The captions, each once."""
        return list(dict.fromkeys(picture.caption for picture in self.data.pictures))

    @cached_property
    def _pictures(self) -> list[Image.Image]:
        return [_square(picture.image(), self.size_px) for picture in self.data.pictures]

    def draw(self, rng: np.random.Generator, number: int, *, plain: bool, patterns: bool) -> Scene:
        """See `Scenes`; there is one form of captions."""
        del plain
        index = number % len(self._pictures)
        picture, caption = self._pictures[index], self.data.pictures[index].caption
        if rng.integers(2):
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if patterns and rng.random() < PATTERNED:
            picture = compositions.patterned(rng, picture)
        return picture, caption, self.names.index(caption)

    def caption(self, rng: np.random.Generator, number: int) -> str:
        """See `Scenes`."""
        del rng
        return self.data.pictures[number % len(self.data.pictures)].caption


def squares(data: Data, size_px: int) -> NDArray[np.uint8]:
    """A dataset's pictures as they are, cut to squares: (N, H, W, 3)."""
    return np.stack([np.asarray(_square(one.image(), size_px)) for one in data.pictures])


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """Bytes (B, H, W, 3) as (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(values: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in [-1, 1] as pictures."""
    scaled = ((values.detach().float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return [Image.fromarray(one) for one in scaled.permute(0, 2, 3, 1).cpu().numpy()]


def _square(picture: Image.Image, size_px: int) -> Image.Image:
    if picture.mode == "RGBA":  # on white, as a browser would show it
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    side = min(picture.size)
    left, top = ((length - side) // 2 for length in picture.size)
    cut = picture.convert("RGB").crop((left, top, left + side, top + side))
    return cut.resize((size_px, size_px), Image.Resampling.LANCZOS)
