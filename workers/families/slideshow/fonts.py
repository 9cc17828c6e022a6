"""A font that has every character of a text: one that the system has, or Pillow's own."""

import functools
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

from PIL import ImageFont, features
from PIL.ImageFont import FreeTypeFont

FOLDERS = (
    Path("/usr/share/fonts"),
    Path("/usr/local/share/fonts"),
    Path("~/.fonts"),
    Path("~/.local/share/fonts"),
    Path("/Library/Fonts"),
    Path("/System/Library/Fonts"),
)
"""Where systems keep fonts."""

_USUAL = re.compile(r"(NotoSans|DejaVuSans|LiberationSans|OpenSans|Roboto|Arial|Helvetica)\b")
"""Families that many systems have, in many scripts: with one of these first, the headlines of a
campaign look alike. Pillow's own has little more than ASCII, not even ä."""
_UNUSUAL = ("serif", "mono", "italic", "oblique", "light", "thin", "condensed", "emoji", "math")

_NOBODYS = "\U0010ffff"
"""No font has a glyph for this: what is drawn for it is drawn for all that are missing."""
_PROBE_PX = 32


class NoFontError(Exception):
    """No font here can write the text; the message says which characters, and what to do."""


class Font:
    """A font file, or Pillow's own font where ``path`` is None."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._probe = self._open(_PROBE_PX, ImageFont.Layout.BASIC)
        self._missing = self._glyph(_NOBODYS)

    @property
    def name(self) -> str:
        """Its family, such as Noto Sans."""
        return self._probe.getname()[0] or "unnamed"

    def sized(self, size_px: int) -> FreeTypeFont:
        """The font to draw with, shaped by Raqm where Pillow has it."""
        return self._open(size_px, None)

    def lacks(self, characters: str) -> str:
        """Those of ``characters`` that it has no glyph for."""
        return "".join(one for one in characters if self._glyph(one) == self._missing)

    def _open(self, size_px: int, layout: ImageFont.Layout | None) -> FreeTypeFont:
        if self._path:
            return ImageFont.truetype(self._path, size_px, layout_engine=layout)
        own = ImageFont.load_default(size_px)
        assert isinstance(own, FreeTypeFont), "asked for when the family was loaded"
        return ImageFont.truetype(BytesIO(own.font_bytes), size_px, layout_engine=layout)

    def _glyph(self, character: str) -> tuple[tuple[int, int], bytes]:
        mask = self._probe.getmask(character)
        return mask.size, bytes(mask)


def find(text: str, folders: Sequence[Path] = FOLDERS) -> Font:
    """The first font that has every character of ``text``.

    Raises:
        NoFontError: there is none.
    """
    # Spaces look like the missing glyph in fonts that draw nothing for it.
    characters = "".join(sorted({one for one in text if not _is_blank(one)}))
    if _needs_shaping(text) and not features.check("raqm"):
        raise NoFontError(
            f"{_named(characters)}: letters of this script join or stack, which takes Pillow with "
            "Raqm and FriBiDi; install libfribidi0 on the workers"
        )
    missing = characters
    for path in _files(folders):
        try:
            font = _font(path)
        except OSError:  # bitmaps only, or no font at all
            continue
        lacks = font.lacks(characters)
        if not lacks:
            return font
        missing = min(missing, lacks, key=len)
    raise NoFontError(
        f"no font on the worker has all of these, at most all but {_named(missing)}; install one, "
        "such as the packages fonts-noto-core or fonts-noto-cjk, or leave these characters out"
    )


@functools.lru_cache(maxsize=256)
def _font(path: Path | None) -> Font:
    return Font(path)


def _files(folders: Sequence[Path]) -> Iterator[Path | None]:
    """Font files, bold and sans serif ones first, None for Pillow's own after the usual ones."""
    found = [
        Path(folder) / name
        for root in folders
        for folder, _, names in os.walk(root.expanduser())
        for name in names
        if name.lower().endswith((".ttf", ".otf", ".ttc"))
    ]
    usual = [path for path in found if _USUAL.match(path.name)]
    yield from sorted(usual, key=_order)
    yield None
    yield from sorted(set(found).difference(usual), key=_order)


def _order(path: Path) -> tuple[int, bool, Path]:
    name = path.name.lower()
    return sum(word in name for word in _UNUSUAL), "bold" not in name, path


def _is_blank(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) == "Cf"


def _needs_shaping(text: str) -> bool:
    return any(
        unicodedata.category(one) in {"Mn", "Mc"} or unicodedata.bidirectional(one) in {"R", "AL"}
        for one in text
    )


def _named(characters: str, most: int = 5) -> str:
    names = [f"{unicodedata.name(one, 'a character')} (U+{ord(one):04X})" for one in characters]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
