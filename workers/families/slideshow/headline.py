"""The headline: what of it can be drawn, its lines, and the band that they stand in."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageColor, ImageDraw
from PIL.ImageFont import FreeTypeFont

from workers.families.slideshow import fonts

MOST_HEIGHT = 0.6
"""How much of the film's height a headline may cover."""
SMALLEST_PX = 10
LINE_SPACING = 1.15
BAND_OPACITY = 150
"""Of 255: the picture shows through, and the text can be read on any picture."""

_PICTOGRAPHS = re.compile("[\U0001f000-\U0001faff\ufe0f\u200d\u20e3\U000e0020-\U000e007f]")
_SYMBOLS = re.compile("[\u2600-\u27bf\u2b00-\u2bff]")
"""Stars, hearts and the like, which many fonts have."""
_JOINERS = "\u200c\u200d"
"""Zero width, but they change how letters join."""
# Scripts without spaces between words: Thai, Lao, Myanmar, Khmer, Chinese and Japanese.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef"
    "\U00020000-\U0003ffff]"
)
_NOT_FIRST = "\u0e30\u0e32\u0e33\u0e45\u0eb0\u0eb2\u0eb3ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮ"
"""Vowels that belong to the letter before them, and small kana."""
_NOT_LAST = "\u0e40\u0e41\u0e42\u0e43\u0e44\u0ec0\u0ec1\u0ec2\u0ec3\u0ec4\u1039\u17d2"
"""Vowels and stackers that belong to the letter after them."""


class HeadlineError(Exception):
    """The headline does not fit into the film; the message says what to do."""


@dataclass(frozen=True)
class Headline:
    """A band over the whole width with the text in it, and what was left out of the text."""

    band: Image.Image
    top: int
    font: str
    dropped: int

    def draw_on(self, picture: Image.Image) -> None:
        """Lay the band over the picture."""
        picture.paste(self.band, (0, self.top), self.band)


def drawable(
    text: str, folders: Sequence[Path] = fonts.FOLDERS
) -> tuple[str, fonts.Font | None, int]:
    """What of ``text`` can be drawn, in which font, and how many characters were left out.

    Control characters are left out, and emoji where no font has them. None: nothing is left.

    Raises:
        fonts.NoFontError: there are other characters that no font here has.
    """
    text = unicodedata.normalize("NFC", text)
    clean = "".join(one for one in text if one.isspace() or one in _JOINERS or _is_seen(one))
    plain = _PICTOGRAPHS.sub("", clean)
    plainest = _SYMBOLS.sub("", plain)
    for candidate in (clean, plain, plainest):
        lines = [" ".join(line.split()) for line in candidate.splitlines()]
        said = "\n".join(line for line in lines if line)
        if not said:
            break
        try:
            return said, fonts.find(said, folders), len(text) - len(candidate)
        except fonts.NoFontError:
            if candidate == plainest:
                raise
    return "", None, len(text)


def lay_out(text: str, film: tuple[int, int], *, position: str, colour: str) -> Headline | None:
    """The band for a film of that size; None if nothing can be drawn.

    Raises:
        fonts.NoFontError: no font here has the characters.
        HeadlineError: it is too long, however small.
    """
    said, font, dropped = drawable(text)
    if font is None:
        return None
    width, height = film
    margin = max(round(min(film) * 0.05), 2)
    for within_words in (False, True):
        for size_px in _sizes(min(film)):
            sized = font.sized(size_px)
            lines = wrap(said, sized, width - 2 * margin, within_words=within_words)
            if lines is None:
                continue
            band = _band(lines, sized, width, margin, colour)
            if band.height <= height * MOST_HEIGHT:
                return Headline(band, _top(band, height, margin, position), font.name, dropped)
    raise HeadlineError(
        f"the headline of {len(said)} characters does not fit into {width}x{height}; "
        "shorten it, or choose a larger size"
    )


def wrap(
    text: str, font: FreeTypeFont, width_px: float, *, within_words: bool = False
) -> list[str] | None:
    """Lines that are no wider than that; None if a piece of the text alone is wider.

    ``within_words``: words that are wider themselves are broken.
    """
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            joint = " "
            anywhere = within_words and _width(word, font) > width_px
            for piece in _pieces(word, anywhere=anywhere):
                longer = f"{line}{joint}{piece}" if line else piece
                joint = ""
                if _width(longer, font) <= width_px:
                    line = longer
                    continue
                if _width(piece, font) > width_px:
                    return None
                lines.append(line)
                line = piece
        lines.append(line)
    return lines


def _pieces(word: str, *, anywhere: bool) -> Iterator[str]:
    """What is never broken: whole words, in scripts that have any."""
    piece = ""
    for character in word:
        if piece and _may_break(piece[-1], character, anywhere=anywhere):
            yield piece
            piece = ""
        piece += character
    yield piece


def _may_break(before: str, after: str, *, anywhere: bool) -> bool:
    if unicodedata.category(after).startswith("M") or after in _NOT_FIRST or before in _NOT_LAST:
        return False
    if before in _JOINERS or after in _JOINERS:
        return False
    if anywhere:
        return True
    if not (_UNSPACED.match(before) or _UNSPACED.match(after)):
        return False
    closes = unicodedata.category(after) in {"Po", "Pe", "Pf", "Lm"}
    opens = unicodedata.category(before) in {"Ps", "Pi"}
    return not (closes or opens)


def _is_seen(character: str) -> bool:
    return not unicodedata.category(character).startswith("C")


def _sizes(side_px: int) -> Iterator[int]:
    size = max(side_px // 10, SMALLEST_PX)
    while size > SMALLEST_PX:
        yield size
        size = int(size * 0.92)
    yield SMALLEST_PX


def _width(line: str, font: FreeTypeFont) -> float:
    left, _, right, _ = font.getbbox(line, anchor="ls")
    return max(right - min(left, 0), font.getlength(line))


def _band(
    lines: Sequence[str], font: FreeTypeFont, width: int, margin: int, colour: str
) -> Image.Image:
    boxes = [font.getbbox(line, anchor="ls") for line in lines]
    rise = max(font.getmetrics()[0], *(-box[1] for box in boxes))
    fall = max(font.getmetrics()[1], *(box[3] for box in boxes))
    step = round((rise + fall) * LINE_SPACING)
    height = round(rise + fall) + step * (len(lines) - 1) + margin
    red, green, blue = ImageColor.getrgb(colour)[:3]
    # Rec. 709 luma of the text decides whether it stands on black or on white.
    luma = (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255
    ground = (0, 0, 0) if luma > 0.5 else (255, 255, 255)  # noqa: PLR2004 (the middle)
    band = Image.new("RGBA", (width, height), (*ground, BAND_OPACITY))
    draw = ImageDraw.Draw(band)
    for number, (line, box) in enumerate(zip(lines, boxes, strict=True)):
        across = (width - (box[2] - box[0])) / 2 - box[0]
        down = margin // 2 + rise + step * number
        draw.text((across, down), line, font=font, fill=(red, green, blue, 255), anchor="ls")
    return band


def _top(band: Image.Image, height: int, margin: int, position: str) -> int:
    room = height - band.height
    margin = min(margin, room)
    return {"top": margin, "middle": room // 2, "bottom": room - margin}[position]
