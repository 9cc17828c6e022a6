"""Pictures and captions made from cut-outs: an item at some size and place on a plain background.

Every draw comes from the generator that is given, so a composition can be made again.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from workers.training.patterns import Pattern, applied, draw_pattern

# Any two are at least 30 apart in CIELAB (CIE76), and a jittered one is nearest to its own name.
BACKGROUNDS: Mapping[str, str] = MappingProxyType(
    {
        "red": "#d92b2b",
        "orange": "#f57c00",
        "yellow": "#ffd93b",
        "green": "#3da63d",
        "teal": "#0f8b8d",
        "blue": "#2f6fe0",
        "purple": "#8e3fc0",
        "pink": "#ff9ec4",
        "brown": "#7b4a26",
        "white": "#fafafa",
        "grey": "#8c8c8c",
        "black": "#171717",
    }
)
JITTER = 8
"""How far a background's red, green and blue may each be from the named colour, of 255."""

SCALES = (0.55, 0.85)
MOVED = 0.8  # of the room that the item leaves

PLAIN = "{item} on {a_colour} background"
TEMPLATES = (
    PLAIN,
    "{an_item} on {a_colour} background",
    "{an_item} on {colour}",
    "{item}, {colour} background",
    "{a_colour} background with {an_item}",
    "a picture of {an_item} on {colour}",
    "a picture of {an_item} on {a_colour} background",
    "a product photo of {an_item}, {colour} background",
    "{an_item} against {a_colour} backdrop",
    "{an_item} in front of {a_colour} wall",
    "an image of {an_item} with {a_colour} background",
    "{item} on plain {colour}",
    "{colour} backdrop with {item}",
)

# Words that are said without an article, though they are no plurals.
UNCOUNTED = frozenset(
    {
        "bacon",
        "bread",
        "broccoli",
        "custard",
        "fire",
        "fruit",
        "honey",
        "luggage",
        "maize",
        "popcorn",
        "sushi",
    }
)
_SINGULAR = frozenset({"atlas", "canvas", "gas", "lens"})
_PLURAL = re.compile(r"(?:[^sui]|ki|wi)s$")
_AFTER_THE_NOUN = re.compile(r" (?:and|for|from|in|of|on|to|with|without) ")
# What is spelt with a vowel and said with a consonant, and the other way round.
_SAID_WITH_CONSONANT = re.compile(r"(?:uni(?![dmn])|us[abe]|ut[ei]|uk|eu|ewe|one\b|once\b)")
_SAID_WITH_VOWEL = re.compile(r"(?:[aeiou]|hour|honest|honou?r|heir|x-)")


@dataclass(frozen=True)
class Composition:
    """Where an item lies, and on what."""

    scale: float
    """The item's longer side as a share of the picture's."""
    x: float
    """The item's centre as a share of the picture's width; ``y`` of its height."""
    y: float
    flip: bool
    """Left to right."""
    background: str
    """As it is painted, ``#rrggbb``."""
    pattern: Pattern | None = None
    """Over the whole picture."""


def draw(rng: np.random.Generator, background: str, *, plain: bool = True) -> Composition:
    """A composition on a background ``#rrggbb``, jittered; with a pattern unless ``plain``."""
    scale = float(rng.uniform(*SCALES))
    x, y = 0.5 + MOVED * (1 - scale) / 2 * rng.uniform(-1, 1, 2)
    flip = bool(rng.integers(2))
    painted = np.clip(_channels(background) + rng.integers(-JITTER, JITTER + 1, 3), 0, 255)
    pattern = None if plain else draw_pattern(rng)
    return Composition(
        scale, float(x), float(y), flip, "#" + bytes(painted.tolist()).hex(), pattern
    )


def cropped(cut_out: Image.Image, size_px: int) -> Image.Image:
    """The item alone, not larger than pictures of this size need it; for many renderings of it.

    Raises:
        ValueError: Nothing of it is to be seen.
    """
    picture = cut_out.convert("RGBA")
    box = picture.getchannel("A").getbbox()
    if box is None:
        raise ValueError("the picture is transparent everywhere")
    item = picture.crop(box)
    if max(item.size) > 2 * size_px:
        item.thumbnail((2 * size_px, 2 * size_px), Image.Resampling.LANCZOS)
    return item


def render(cut_out: Image.Image, composition: Composition, size_px: int) -> Image.Image:
    """The composition as a square RGB picture.

    Raises:
        ValueError: Nothing of the cut-out is to be seen.
    """
    item = cropped(cut_out, size_px)
    ratio = composition.scale * size_px / max(item.size)
    width, height = (max(round(side * ratio), 1) for side in item.size)
    # Pillow resizes colours premultiplied by their alpha, so none bleeds in from outside.
    item = item.resize((width, height), Image.Resampling.LANCZOS)
    if composition.flip:
        item = item.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture = Image.new("RGB", (size_px, size_px), composition.background)
    left = round(composition.x * size_px - width / 2)
    top = round(composition.y * size_px - height / 2)
    picture.paste(item, (left, top), item)
    return picture if composition.pattern is None else applied(composition.pattern, picture)


def patterned(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    """An RGB picture under a pattern: stripes, dots, checks, or as a halftone of two colours."""
    return applied(draw_pattern(rng), picture)


def with_article(words: str) -> str:
    """``words`` with ``a`` or ``an``, or as they are where English takes neither."""
    noun = _AFTER_THE_NOUN.split(words)[0].rsplit(maxsplit=1)[-1]
    if noun in UNCOUNTED or (_PLURAL.search(noun) and noun not in _SINGULAR):
        return words
    vowel = _SAID_WITH_VOWEL.match(words) and not _SAID_WITH_CONSONANT.match(words)
    return f"an {words}" if vowel else f"a {words}"


def phrased(template: str, item: str, colour: str) -> str:
    """A template with ``{item}``, ``{an_item}``, ``{colour}`` and ``{a_colour}`` filled in."""
    return template.format(
        item=item, an_item=with_article(item), colour=colour, a_colour=with_article(colour)
    )


def caption(rng: np.random.Generator, item: str, colour: str, *, plain: bool) -> str:
    """What a composition shows, in one of the ways in which people say it; or in the plain one."""
    template = PLAIN if plain else TEMPLATES[rng.integers(len(TEMPLATES))]
    return phrased(template, item, colour)


def held_out(
    items: Iterable[str], colours: Iterable[str], share: float = 0.1, seed: int = 0
) -> set[tuple[str, str]]:
    """Pairs of item and colour to keep out of a training, balanced.

    Of each item one to three colours (and never all of them); each colour about equally often.
    The order of what is given does not matter.
    """

    def place(*words: str) -> bytes:
        key = str(seed).encode()
        return hashlib.blake2b("\0".join(words).encode(), digest_size=8, key=key).digest()

    names = sorted(set(items), key=place)
    hues = set(colours)
    most = min(3, len(hues) - 1)
    if not names or most < 1 or share <= 0:
        return set()
    count = min(max(round(share * len(names) * len(hues)), len(names)), most * len(names))
    taken = dict.fromkeys(hues, 0)
    pairs: set[tuple[str, str]] = set()
    for number in range(count):
        item = names[number % len(names)]
        left = [hue for hue in hues if (item, hue) not in pairs]
        colour = min(left, key=lambda hue: (taken[hue], place(item, hue)))
        taken[colour] += 1
        pairs.add((item, colour))
    return pairs


def lab(colours: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Bytes of sRGB (..., 3) as CIELAB (..., 3) under D65 (IEC 61966-2-1, CIE 15)."""
    values = colours.astype(np.float64) / 255
    dark = values <= 0.04045  # noqa: PLR2004 - the standard's
    linear = np.where(dark, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    matrix = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = linear @ matrix.T / matrix.sum(axis=1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def nearest(colour: NDArray[np.uint8], named: Mapping[str, str] = BACKGROUNDS) -> str:
    """The name of the colour that is nearest in CIELAB (CIE76) to an sRGB one in bytes (3,)."""
    values = np.array([_channels(value) for value in named.values()], dtype=np.uint8)
    distances = np.linalg.norm(lab(values) - lab(colour), axis=-1)
    return list(named)[int(distances.argmin())]


def background_of(picture: Image.Image, named: Mapping[str, str] = BACKGROUNDS) -> str:
    """The name of the colour of an RGB picture's border: the median of each channel there."""
    pixels = np.asarray(picture)
    width = max(min(pixels.shape[:2]) // 32, 1)
    inside = np.zeros(pixels.shape[:2], dtype=bool)
    inside[width:-width, width:-width] = True
    return nearest(np.median(pixels[~inside], axis=0).astype(np.uint8), named)


def _channels(value: str) -> NDArray[np.int64]:
    return np.array(list(bytes.fromhex(value.removeprefix("#"))), dtype=np.int64)
