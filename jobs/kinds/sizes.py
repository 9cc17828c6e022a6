"""Sizes in pixels: how requests write them, and which a model takes."""

import re
from collections.abc import Sequence
from math import log
from typing import Annotated

from pydantic import AfterValidator

from jobs.problems import BadInputError, Problem
from storage.models import ModelCard


def parse_size(size: str) -> tuple[int, int]:
    """``"640x480"`` as (width, height) in pixels; ValueError if it is not of that form."""
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", size)
    if not match:
        raise ValueError(f"{size!r} is not WIDTHxHEIGHT, for example 512x512")
    return int(match[1]), int(match[2])


def _size(size: str) -> str:
    parse_size(size)
    return size


SizeText = Annotated[str, AfterValidator(_size)]
"""``WIDTHxHEIGHT`` in pixels, as `parse_size` reads it."""


def size_to_make(size: str, sizes: Sequence[str]) -> str:
    """At which of ``sizes`` a picture of ``size`` is made, to be scaled and cropped to it.

    Itself where it is one of them, or there are none. Otherwise the nearest in proportions; of
    those that are as near the smallest that need not be enlarged, or else the largest.
    """
    if size in sizes or not sizes:
        return size
    width, height = parse_size(size)

    def distance(other: str) -> tuple[float, bool, float]:
        made_width, made_height = parse_size(other)
        # Logarithms: twice as wide is as far as half as wide. Rounded, so that equal ones tie.
        shape = round(abs(log(made_width / made_height) - log(width / height)), 9)
        is_small = made_width < width or made_height < height
        area = made_width * made_height
        return shape, is_small, -area if is_small else area

    return min(sizes, key=distance)


def check_size(size: str, card: ModelCard, *, scales: bool = False) -> None:
    """BadInputError if the model does not take that size, with the nearest that it does.

    ``scales``: what is made is scaled to it, so that its sides need be multiples of nothing.
    """
    multiple = 1 if scales else card.size_multiple_px
    for side in parse_size(size):
        if side % multiple:
            lower = max(side // multiple * multiple, multiple)
            raise BadInputError(
                Problem(
                    f"{size}: model {card.name!r} takes sides that are multiples of {multiple}; "
                    f"nearest to {side}: {lower} or {lower + multiple}",
                    field="size",
                )
            )
        if side > card.max_side_px:
            raise BadInputError(
                Problem(
                    f"{size}: model {card.name!r} takes at most {card.max_side_px} px a side",
                    field="size",
                )
            )
