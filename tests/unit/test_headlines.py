"""Headlines: their lines, their font, and what of them can be drawn."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from workers.families.slideshow import fonts
from workers.families.slideshow.headline import HeadlineError, drawable, lay_out, wrap

OWN = fonts.find("A", ())
"""Pillow's own font, which every machine has."""
WIDTH_PX = 120

words = st.lists(st.text("abcdefgWMij.,!-", min_size=1, max_size=12), min_size=1, max_size=12)


@given(words)
@settings(max_examples=50, deadline=None)
def test_lines_are_no_wider_and_lose_nothing(text: list[str]) -> None:
    """Whatever is said, every letter of it is on a line that fits."""
    font = OWN.sized(20)
    lines = wrap(" ".join(text), font, WIDTH_PX, within_words=True)
    assert lines
    assert max(font.getlength(line) for line in lines) <= WIDTH_PX
    assert "".join(lines).replace(" ", "") == "".join(text)


def test_words_are_kept_whole() -> None:
    """A line ends between words, unless a word alone is wider."""
    font = OWN.sized(20)
    assert wrap("fresh apples today", font, WIDTH_PX) == ["fresh apples", "today"]
    assert wrap("fresh " + "w" * 30, font, WIDTH_PX) is None


def test_scripts_without_spaces() -> None:
    """They are broken between characters, but no full stop begins a line, no bracket ends one."""
    font = OWN.sized(20)
    text = "苹果今天。新鲜「上市」好吃、的苹果スーパー"
    for width_px in range(45, 200, 7):
        lines = wrap(text, font, width_px)
        assert lines
        assert "".join(lines) == text
        assert not any(line[0] in "。」、ー" or line[-1] == "「" for line in lines)
    assert len(wrap(text, font, 60) or ()) > 2


def test_emoji_and_control_characters_are_left_out() -> None:
    """What no font can draw is left out, and counted; the words stay."""
    assert drawable("Fresh\u202e \x07apples \U0001f34e!", ())[::2] == ("Fresh apples !", 3)
    assert drawable(" \U0001f34e\n", ()) == ("", None, 3)


def test_a_headline_without_a_font() -> None:
    """Letters are never left out: the message names them, and says what to install."""
    with pytest.raises(fonts.NoFontError, match=r"CUNEIFORM SIGN A \(U\+12000\).* fonts-noto-core"):
        drawable("\U00012000 apples", ())


def test_fonts_are_looked_for(tmp_path: Path) -> None:
    """A system's font is found by the characters that it has; what is no font is passed over."""
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    (tmp_path / "DejaVuSans.ttf").write_bytes(_own_bytes())
    assert fonts.find("apples", (tmp_path,)).name == OWN.name
    with pytest.raises(fonts.NoFontError):
        fonts.find("Ж", (tmp_path,))


@pytest.mark.parametrize("position", ["top", "middle", "bottom"])
@pytest.mark.parametrize("text", ["Fresh", "Fresh apples today, every day, " * 8, "W" * 100])
def test_headlines_are_never_cut_off(text: str, position: str) -> None:
    """All ink lies inside of the band, and the band inside of the film, however long the text."""
    laid = lay_out(text, (320, 240), position=position, colour="#FFFFFF")
    assert laid
    assert laid.top >= 0
    assert laid.top + laid.band.height <= 240
    ink = laid.band.getchannel("R").point(lambda level: 255 if level > 60 else 0).getbbox()
    assert ink
    assert ink[0] > 0
    assert ink[1] > 0
    assert ink[2] < 320
    assert ink[3] < laid.band.height


def test_a_headline_that_cannot_fit() -> None:
    """The message says what to do."""
    with pytest.raises(HeadlineError, match="300 characters does not fit into 64x64; shorten"):
        lay_out("W" * 300, (64, 64), position="top", colour="#FFFFFF")


def test_the_band_contrasts_with_the_text() -> None:
    """Dark text stands on white, light text on black, in the colour that was asked for."""
    for colour, ground in (("#101010", 255), ("#FFE000", 0)):
        laid = lay_out("Fresh", (320, 240), position="top", colour=colour)
        assert laid
        assert laid.band.convert("RGB").getpixel((0, 0)) == (ground,) * 3
        seen = {color for _, color in laid.band.getcolors(100_000) or ()}
        assert (*bytes.fromhex(colour[1:]), 255) in seen
        assert laid.band.size[0] == 320
        picture = Image.new("RGB", (320, 240))
        laid.draw_on(picture)
        assert picture.getbbox()


def _own_bytes() -> bytes:
    data: bytes = OWN.sized(10).font_bytes
    return data
