"""The pictures of a training: fitted to sizes of equal area, and encoded once."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers.training_utils import generate_aspect_ratio_buckets
from PIL import Image
from torch import Tensor
from torch.nn import functional

from jobs.datasets import triggers
from workers.families.diffusion.finetune.hooks.hook import Crop, Hook, Row
from workers.pictures import on_white
from workers.training.data import Data, PictureItem

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class Learnt:
    """A picture as it is learnt from.

    ``latents`` are (C, h, w), and ``mask`` (1, h, w) says what each of them weighs, 1 on average.
    """

    text: str
    latents: Tensor
    mask: Tensor
    crop: Crop


Bucket = list[Learnt]
"""Pictures of one size."""


def caption_of(item: PictureItem, trigger: str | None) -> str:
    """With the trigger before it where it does not have it."""
    if not trigger or triggers.uses(trigger, [item.caption]):
        return item.caption
    return f"{trigger}, {item.caption}".removesuffix(", ")


def sizes_of(size: Size, multiple_px: int, *, several: bool) -> list[Size]:
    """Those that pictures are fitted to: of about one area, the first as it was asked for.

    Raises:
        ValueError: a side is no multiple of what the model takes.
    """
    width, height = size
    if width % multiple_px or height % multiple_px:
        raise ValueError(f"size: for this model both sides must be multiples of {multiple_px}")
    others = generate_aspect_ratio_buckets(round(math.sqrt(width * height)), multiple_px)
    found = [(wide, high) for high, wide in others] if several else []
    return list(dict.fromkeys([size, *found]))


def nearest(size: Size, sizes: Sequence[Size]) -> Size:
    """The nearest in proportions: twice as wide is as far as half as wide."""
    shape = math.log(size[0] / size[1])
    return min(sizes, key=lambda one: round(abs(math.log(one[0] / one[1]) - shape), 9))


def fitted(picture: Image.Image, size: Size, method: Image.Resampling) -> tuple[Image.Image, Crop]:
    """Scaled and cropped around its middle to cover ``size``."""
    width, height = picture.size
    scale = max(size[0] / width, size[1] / height)
    wide, high = max(round(width * scale), size[0]), max(round(height * scale), size[1])
    left, top = (wide - size[0]) // 2, (high - size[1]) // 2
    crop = Crop((height, width), (top, left), (size[1], size[0]))
    scaled = picture.resize((wide, high), method)
    return scaled.crop((left, top, left + size[0], top + size[1])), crop


def encoded(
    hook: Hook, item: PictureItem, text: str, sizes: Sequence[Size], *, device: str
) -> Learnt:
    """The picture at the nearest of the sizes; what is transparent is white."""
    whole = on_white(item.image())
    size = nearest(whole.size, sizes)
    picture, crop = fitted(whole, size, Image.Resampling.LANCZOS)
    latents = encoded_picture(hook, picture, device)
    return Learnt(text, latents, _weights(item, size, latents.shape[-2:]), crop)


def encoded_picture(hook: Hook, picture: Image.Image, device: str) -> Tensor:
    """The latents (C, h, w) of an RGB picture."""
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None]
    with torch.no_grad(), torch.autocast(device, enabled=False):
        return hook.latents(pixels.to(device).float() / 127.5 - 1)[0].cpu()


def _weights(item: PictureItem, size: Size, shape: torch.Size) -> Tensor:
    """Of each latent, 1 on average, so that a small thing counts as much as a large one."""
    mask = item.mask_image()
    if mask is None:
        return torch.ones(1, *shape)
    seen, _ = fitted(mask, size, Image.Resampling.BILINEAR)
    levels = torch.from_numpy(np.asarray(seen).copy())[None, None].float() / 255
    weights = functional.interpolate(levels, tuple(shape), mode="area")[0]
    mean = weights.mean()
    # Only what was cropped away counts in this one: then all that is left does.
    return weights / mean if mean > 0 else torch.ones_like(weights)


@dataclass(frozen=True)
class Learning:
    """All that a training learns from and is evaluated on, in the memory of the host."""

    buckets: Sequence[Bucket]
    held_out: Bucket
    rows: Mapping[str, Row]
    empty: Row

    def drawn(self, count: int) -> Bucket:
        """A batch of one size, drawn from torch's global generator: every picture is as likely.

        Where a size has fewer pictures than that, some come several times.
        """
        return drawn(self.buckets, count)

    def rows_of(self, batch: Sequence[Learnt], dropped: Tensor) -> list[Row]:
        """What the captions have become; those that are ``dropped`` (B,) are left out."""
        return [
            self.empty if is_dropped else self.rows[one.text]
            for one, is_dropped in zip(batch, dropped.tolist(), strict=True)
        ]


def drawn(buckets: Sequence[Bucket], count: int) -> Bucket:
    """See `Learning.drawn`."""
    sizes = torch.tensor([float(len(bucket)) for bucket in buckets])
    bucket = buckets[int(torch.multinomial(sizes, 1))]
    order: list[int] = []
    while len(order) < count:
        order += torch.randperm(len(bucket)).tolist()
    return [bucket[n] for n in order[:count]]


def learning_of(
    hook: Hook,
    data: Data,
    sizes: Sequence[Size],
    divided: tuple[Sequence[int], Sequence[int]],
    *,
    device: str,
    more: Sequence[str] = (),
    look: Callable[[], None],
) -> Learning:
    """Encode the dataset: ``divided`` says which of its pictures are learnt, and which held out.

    ``more`` are texts that are needed beside the captions.
    """
    learnt, out = divided

    def each(numbers: Sequence[int]) -> Iterator[Learnt]:
        for number in numbers:
            look()
            item = data.pictures[number]
            yield encoded(hook, item, caption_of(item, data.trigger), sizes, device=device)

    pictures, held_out = list(each(learnt)), list(each(out))
    rows: dict[str, Row] = {}
    with torch.no_grad():
        for text in dict.fromkeys([*(one.text for one in [*pictures, *held_out]), *more]):
            look()
            rows[text] = _kept(hook.encode(text))
        empty = _kept(hook.empty())
    return Learning(bucketed(pictures), held_out, rows, empty)


def bucketed(pictures: Sequence[Learnt]) -> list[Bucket]:
    """By their sizes."""
    buckets: dict[torch.Size, Bucket] = {}
    for one in pictures:
        buckets.setdefault(one.latents.shape, []).append(one)
    return list(buckets.values())


def _kept(row: Row) -> Row:
    return {name: one.detach().cpu() for name, one in row.items()}
