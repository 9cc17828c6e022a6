"""Plain patterns over pictures, so that an autoencoder that has seen them keeps styles."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

PatternKind = Literal["stripes", "dots", "checks", "halftone"]
KINDS: tuple[PatternKind, ...] = get_args(PatternKind)


@dataclass(frozen=True)
class Pattern:
    """Shapes of a colour over a picture; or, as a halftone, all of it in dots of that colour."""

    kind: PatternKind
    period: float
    """From one shape to the next, as a share of the picture's width."""
    angle: float
    """In radians."""
    ink: tuple[int, int, int]
    paper: tuple[int, int, int]
    """What a halftone leaves between its dots; the other kinds leave the picture there."""
    strength: float
    """How much of the picture the shapes hide: 1 is all. A halftone hides all of it; below 1 there
    are shades between its two colours, so that between its dots more is to be seen."""


def draw_pattern(rng: np.random.Generator, kinds: Sequence[PatternKind] = KINDS) -> Pattern:
    """One of the kinds, in any two colours, the ink of a halftone darker than its paper."""
    ink, paper = rng.integers(0, 128, 3), rng.integers(160, 256, 3)
    kind = kinds[int(rng.integers(len(kinds)))]
    if kind != "halftone" and rng.integers(2):
        ink = paper
    return Pattern(
        kind,
        period=float(rng.uniform(0.04, 0.07) if kind == "halftone" else rng.uniform(0.05, 0.25)),
        angle=float(rng.uniform(0, np.pi)),
        ink=(int(ink[0]), int(ink[1]), int(ink[2])),
        paper=(int(paper[0]), int(paper[1]), int(paper[2])),
        strength=float(rng.uniform(0.3, 1)),
    )


def applied(pattern: Pattern, picture: Image.Image) -> Image.Image:
    """The RGB picture under the pattern."""
    ink = Image.new("RGB", picture.size, pattern.ink)
    if pattern.kind == "halftone":
        below = Image.new("RGB", picture.size, pattern.paper)
        coverage = _halftone(pattern, picture)
    else:
        below = picture
        coverage = pattern.strength * _shapes(pattern, picture.size)
    mask = Image.fromarray(np.rint(coverage * 255).astype(np.uint8))
    return Image.composite(ink, below, mask)


def _turned(
    pattern: Pattern, size: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """The pixels' places in periods along and across, (height, width) each; a period in pixels."""
    width, height = size
    period_px = pattern.period * width
    y, x = np.mgrid[0:height, 0:width] + 0.5
    along = (x * np.cos(pattern.angle) + y * np.sin(pattern.angle)) / period_px
    across = (y * np.cos(pattern.angle) - x * np.sin(pattern.angle)) / period_px
    return along, across, period_px


def _shapes(pattern: Pattern, size: tuple[int, int]) -> NDArray[np.float64]:
    """The share of each pixel (height, width) that the shapes cover."""
    along, across, period_px = _turned(pattern, size)
    # How far a pixel is from the middle of its cell, in periods: 0 to 0.5.
    u, v = (np.abs(place - np.floor(place) - 0.5) for place in (along, across))
    if pattern.kind == "stripes":
        outside = u - 0.25
    elif pattern.kind == "dots":
        outside = np.hypot(u, v) - 0.3
    else:
        first, second = u - 0.25, v - 0.25
        outside = np.where(first * second > 0, 1, -1) * np.minimum(np.abs(first), np.abs(second))
    return np.clip(0.5 - outside * period_px, 0, 1)


def _halftone(pattern: Pattern, picture: Image.Image) -> NDArray[np.float64]:
    """The share of each pixel (height, width) that ink covers: the darker, the larger the dots.

    A clustered-dot screen whose spot function is a cosine (Ulichney, Digital Halftoning, 1987).
    """
    along, across, period_px = _turned(pattern, picture.size)
    spot = 0.5 + (np.cos(2 * np.pi * along) + np.cos(2 * np.pi * across)) / 4
    grey = picture.convert("L").filter(ImageFilter.BoxBlur(period_px / 8))
    darkness = 1 - np.asarray(grey, dtype=np.float64) / 255
    # The screen's slope is at most about 2 in a period, so an edge is about a pixel wide.
    dots = np.clip(0.5 + (darkness + spot - 1) * period_px / 2, 0, 1)
    return pattern.strength * dots + (1 - pattern.strength) * darkness
