"""``python -m benchmarks.starter.sheet``: a contact sheet, every tenth prompt of the benchmark."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from benchmarks.starter import cut_outs as cuts
from benchmarks.starter import options
from benchmarks.starter import prompts as asking
from benchmarks.starter.generating import Starter

COUNT = 48
COLUMNS = 8
GAP_PX = 6
FONT_PX = 10
LINES = 2
BETWEEN = 10
"""From one prompt of the benchmark's to the next that is shown."""
QUALITY = 80
"""Of the file, as WebP; 48 pictures of 128 px then take about 200 kB."""


def drawn(pictures: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """Pictures of one size in rows, each over its caption."""
    width, height = pictures[0].size
    font = ImageFont.load_default(FONT_PX)
    cell = (width + GAP_PX, height + LINES * (FONT_PX + 3) + GAP_PX)
    rows = -(-len(pictures) // COLUMNS)
    columns = min(len(pictures), COLUMNS)
    sheet = Image.new("RGB", (columns * cell[0] + GAP_PX, rows * cell[1] + GAP_PX), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        left = GAP_PX + number % COLUMNS * cell[0]
        top = GAP_PX + number // COLUMNS * cell[1]
        sheet.paste(picture, (left, top))
        for line, text in enumerate(_lines(caption, font, width)):
            pen.text((left, top + height + 2 + line * (FONT_PX + 2)), text, "#333333", font)
    return sheet


def _lines(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """The words on lines that fit, as many as there is room for."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines[:LINES]


def write(sheet: Image.Image, file: Path) -> None:
    """As WebP or PNG, by the file's name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    more = {"quality": QUALITY, "method": 6} if file.suffix == ".webp" else {"optimize": True}
    sheet.save(file, **more)


def main() -> None:
    """Draw the sheet."""
    parser = options.parser_of("benchmarks.starter.sheet", __doc__, needs_model=True)
    parser.add_argument("--out", type=Path, required=True, help="a .webp or .png file")
    given: argparse.Namespace = parser.parse_args()
    names = cuts.read(given.pictures).names
    prompts = asking.balanced(names, asking.COUNT, options.kept_out(given, names))[::BETWEEN][
        :COUNT
    ]
    pictures = Starter(given.model, options.asked(given)).pictures(prompts)
    write(drawn(pictures, [prompt.text for prompt in prompts]), given.out)
    print(f"{given.out}: {given.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
