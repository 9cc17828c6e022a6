"""The pictures that a job starts from, as a model gets them."""

from io import BytesIO

import pytest
from PIL import Image

from workers.family import Input
from workers.pictures import covering, covering_mask, kept


def png(image: Image.Image) -> Input:
    """The picture as the runner hands it over."""
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return Input(buffer.getvalue(), "image/png", "0" * 64)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA"])
def test_modes(mode: str) -> None:
    """Whatever it was, it is RGB."""
    made = covering(png(Image.new("RGB", (20, 10), "red").convert(mode)), (8, 8))
    assert (made.mode, made.size) == ("RGB", (8, 8))


def test_what_is_transparent_is_white() -> None:
    """Not the colour that lies hidden behind it."""
    made = covering(png(Image.new("RGBA", (8, 8), (255, 0, 0, 0))), (8, 8))
    assert made.getpixel((4, 4)) == (255, 255, 255)


def test_the_size_is_covered() -> None:
    """The middle is kept in its proportions, what stands out at the sides is cut off."""
    wide = Image.new("RGB", (48, 16), "red")
    wide.paste("blue", (16, 0, 32, 16))
    made = covering(png(wide), (8, 8))
    assert [made.getpixel((x, 4)) for x in (1, 6)] == [(0, 0, 255)] * 2
    mask = Image.new("L", (48, 16), 0)
    mask.paste(255, (16, 0, 32, 16))
    assert covering_mask(png(mask), (8, 8)).getpixel((4, 4)) == 255
    assert covering_mask(png(mask), (48, 16)).getextrema() == (0, 255)


def test_what_is_not_masked_is_kept() -> None:
    """To the pixel, also where the model has made another size."""
    mask = Image.new("L", (8, 8), 0)
    mask.paste(255, (0, 0, 4, 8))
    made = kept(Image.new("RGB", (16, 16), "red"), Image.new("RGB", (8, 8), "blue"), mask)
    assert [made.getpixel((x, 4)) for x in (1, 6)] == [(255, 0, 0), (0, 0, 255)]
