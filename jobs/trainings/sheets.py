"""Pictures that are to be compared, laid out as one with labels."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

SIDE_PX = 256
"""Larger pictures are scaled down to it; smaller ones stay as they are."""
LABEL_PX = 200
TEXT_PX = 14
GAP_PX = 8
LINE_PX = TEXT_PX + 4

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Row:
    """Its ``cells`` stand under the columns' labels: pictures, or words where there is none."""

    label: str
    cells: Sequence[Image.Image | str]


def grid(columns: Sequence[str], rows: Sequence[Row]) -> Image.Image:
    """Pictures in rows and columns, each with its label; RGB.

    Labels are written in Pillow's own font, which has no more than Latin letters: others are shown
    as boxes. What does not fit is cut.
    """
    pictures = [cell for row in rows for cell in row.cells if isinstance(cell, Image.Image)]
    longest = max((max(picture.size) for picture in pictures), default=SIDE_PX)
    side = min(max(longest, SIDE_PX // 2), SIDE_PX)
    step = side + GAP_PX
    left, top = LABEL_PX + 2 * GAP_PX, LINE_PX + 2 * GAP_PX
    sheet = Image.new("RGB", (left + len(columns) * step, top + len(rows) * step), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(TEXT_PX)
    for column, label in enumerate(columns):
        _write(draw, font, label, (left + column * step, GAP_PX), (side, LINE_PX))
    for number, row in enumerate(rows):
        y = top + number * step
        _write(draw, font, row.label, (GAP_PX, y), (LABEL_PX, side))
        for column, cell in enumerate(row.cells):
            x = left + column * step
            if isinstance(cell, str):
                draw.rectangle((x, y, x + side - 1, y + side - 1), outline="silver")
                room = (side - 2 * GAP_PX, side - 2 * GAP_PX)
                _write(draw, font, cell, (x + GAP_PX, y + GAP_PX), room)
            else:
                sheet.paste(*_placed(cell, side, x, y))
    return sheet


def _placed(picture: Image.Image, side: int, x: int, y: int) -> tuple[Image.Image, tuple[int, int]]:
    """Where it lies in its cell, on white where it is transparent."""
    shown = picture.convert("RGBA")
    shown.thumbnail((side, side), Image.Resampling.LANCZOS)
    shown = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown)
    place = (x + (side - shown.width) // 2, y + (side - shown.height) // 2)
    return shown.convert("RGB"), place


def _write(
    draw: ImageDraw.ImageDraw, font: Font, text: str, place: tuple[int, int], room: tuple[int, int]
) -> None:
    """Words in lines that are not wider than ``room``, and no more of them than it has."""
    width, height = room
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and draw.textlength(longer, font) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    most = max(height // LINE_PX, 1)
    if len(lines) > most:
        lines = [*lines[: most - 1], " ".join(lines[most - 1 :])]
    for number, line in enumerate(lines):
        x, y = place
        draw.text((x, y + number * LINE_PX), _cut(draw, font, line, width), "black", font)


def _cut(draw: ImageDraw.ImageDraw, font: Font, line: str, width: int) -> str:
    if draw.textlength(line, font) <= width:
        return line
    # A label may be thousands of characters long.
    line = line[:width]
    while line and draw.textlength(f"{line}...", font) > width:
        line = line[:-1]
    return f"{line}..."
