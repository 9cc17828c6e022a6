"""Pictures laid out as one, with labels."""

from typing import Any

import numpy as np
from PIL import Image

from jobs.trainings import sheets
from jobs.trainings.sheets import GAP_PX, LABEL_PX, LINE_PX, SIDE_PX, Row

LEFT, TOP = LABEL_PX + 2 * GAP_PX, LINE_PX + 2 * GAP_PX


def test_each_picture_lies_in_its_cell() -> None:
    """Large ones are scaled down, small ones stay in the middle, transparent ones are on white."""
    large = Image.new("RGB", (512, 256), "red")
    small = Image.new("RGBA", (100, 50), (0, 0, 255, 255))
    clear = Image.new("RGBA", (256, 256), (0, 255, 0, 0))
    sheet = sheets.grid(["a", "b"], [Row("1", [large, small]), Row("2", [clear, "failed: why"])])
    step = SIDE_PX + GAP_PX
    assert sheet.size == (LEFT + 2 * step, TOP + 2 * step)
    pixels = np.asarray(sheet)
    assert box(pixels, (255, 0, 0)) == (TOP + 64, LEFT, TOP + 192, LEFT + 256)
    x, y = LEFT + step + 78, TOP + 103
    assert box(pixels, (0, 0, 255)) == (y, x, y + 50, x + 100)
    assert (pixels[TOP + step :, LEFT : LEFT + SIDE_PX] == 255).all()
    assert (pixels[TOP + step :, LEFT + step :] == 0).any()  # its words


def test_labels_stay_within_their_cells() -> None:
    """Long ones are wrapped and cut; words without a font are shown all the same."""
    picture = Image.new("RGB", (256, 256), "white")
    long = "a mug on a table " * 200 + "x" * 4000
    sheet = sheets.grid([long, "杯"], [Row(long, [picture, picture]), Row("杯", [picture, long])])
    ink = np.asarray(sheet.convert("L")) < 128
    step = SIDE_PX + GAP_PX
    assert ink[TOP : TOP + SIDE_PX, GAP_PX : GAP_PX + LABEL_PX].any()
    for column in (slice(LEFT - GAP_PX, LEFT), slice(LEFT + SIDE_PX, LEFT + step)):
        assert not ink[:, column].any()
    for row in (slice(TOP - GAP_PX, TOP), slice(TOP + SIDE_PX, TOP + step)):
        assert not ink[row].any()


def box(of: np.ndarray[Any, Any], colour: tuple[int, int, int]) -> tuple[int, ...]:
    """Where a colour is: top, left, bottom, right."""
    places = np.argwhere((of == colour).all(axis=2))
    return (*map(int, places.min(axis=0)), *(int(last) + 1 for last in places.max(axis=0)))
