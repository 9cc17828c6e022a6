"""What pictures may suffer without showing something else: a judge is trained to see past it."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from workers.training.patterns import PatternKind, applied, draw_pattern

PATTERNED = 0.3
PATTERNS: Sequence[PatternKind] = (
    "stripes",
    "dots",
    "checks",
    "halftone",
    "halftone",
    "halftone",
    "halftone",
)
"""Most patterns are halftones: items are to be read in styles that have no colours of theirs."""
BLUR_PX = 1.8
"""The largest radius, on pictures of 128 px."""


def disturbed(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    """The RGB picture with some of: a pattern, blur, a small warp, other colours, noise, JPEG."""
    if rng.random() < PATTERNED:
        picture = applied(draw_pattern(rng, PATTERNS), picture)
    return changed(rng, warped(rng, picture), BLUR_PX * picture.width / 128)


def changed(rng: np.random.Generator, picture: Image.Image, blur_px: float) -> Image.Image:
    """Blurred by up to so much, recoloured, noisy, coded: each by half of the time, or less."""
    if rng.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, blur_px))))
    pixels = np.asarray(picture, dtype=np.float32)
    if rng.random() < 0.5:
        pixels = _recoloured(rng, pixels)
    if rng.random() < 0.3:
        pixels = pixels + rng.standard_normal(pixels.shape, np.float32) * rng.uniform(0, 20)
    picture = Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
    if rng.random() < 0.3:
        coded = BytesIO()
        picture.save(coded, "JPEG", quality=int(rng.integers(25, 90)))
        with Image.open(coded) as decoded:
            picture = decoded.convert("RGB")
    return picture


def warped(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    """Its corners pulled by up to 4 % of its side, half of the time, as drawings go astray."""
    if rng.random() < 0.5:
        return picture
    width, height = picture.size
    corners = np.array([[0, 0], [0, height], [width, height], [width, 0]], dtype=float)
    corners += rng.uniform(-0.04, 0.04, (4, 2)) * picture.size
    return picture.transform(
        picture.size,
        Image.Transform.QUAD,
        tuple(corners.ravel().tolist()),
        Image.Resampling.BILINEAR,
        fillcolor=picture.getpixel((0, 0)),
    )


def _recoloured(rng: np.random.Generator, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """More or less contrast, saturation and light, and each channel's gain a little off."""
    grey = pixels.mean(axis=2, keepdims=True)
    pixels = grey + (pixels - grey) * np.float32(rng.uniform(0.3, 1.2))
    middle = pixels.mean()
    gains = (rng.uniform(0.7, 1.3) * rng.uniform(0.93, 1.07, 3)).astype(np.float32)
    stretched: NDArray[np.float32] = middle + (pixels - middle) * gains
    return stretched + np.float32(rng.uniform(-15, 15))
