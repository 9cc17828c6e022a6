"""Sizes in pixels: how requests write them, and which a model takes."""

import re
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


def check_size(size: str, card: ModelCard) -> None:
    """BadInputError if the model does not take that size, with the nearest that it does."""
    multiple = card.size_multiple_px
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
