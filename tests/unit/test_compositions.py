"""Compositions of cut-outs on backgrounds."""

import itertools
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from workers.training import compositions
from workers.training.compositions import BACKGROUNDS, JITTER, Composition
from workers.training.patterns import KINDS, Pattern, applied

ITEMS = tuple(f"item {number}" for number in range(206))


def cut_out() -> Image.Image:
    """A red bar of 40 x 20 pixels somewhere in a clear picture whose hidden colour is green."""
    picture = Image.new("RGBA", (100, 80), (0, 255, 0, 0))
    picture.paste((255, 0, 0, 255), (50, 10, 90, 30))
    return picture


def test_a_jittered_background_is_nearest_to_its_own_name() -> None:
    """However far the jitter takes a background, it keeps its name; names are 30 apart."""
    for name, value in BACKGROUNDS.items():
        middle = np.array(list(bytes.fromhex(value[1:])))
        for corner in itertools.product((-JITTER, 0, JITTER), repeat=3):
            painted = np.clip(middle + corner, 0, 255).astype(np.uint8)
            assert compositions.nearest(painted) == name
    values = np.array([list(bytes.fromhex(value[1:])) for value in BACKGROUNDS.values()])
    labs = compositions.lab(values.astype(np.uint8))
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(labs, 2)) > 30


def test_a_background_is_read_from_the_border() -> None:
    """Whatever lies inside, and though the item touches an edge."""
    picture = compositions.render(cut_out(), Composition(0.85, 0.42, 0.5, False, "#0f8b8d"), 64)
    assert compositions.background_of(picture) == "teal"


def test_lab_is_that_of_the_standard() -> None:
    """White, black and the red primary have the coordinates that are published for sRGB."""
    found = compositions.lab(np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0]], dtype=np.uint8))
    assert found == pytest.approx(
        np.array([[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.2]]), abs=0.05
    )


def test_an_item_lies_where_the_composition_says() -> None:
    """It is cropped to what can be seen, scaled by its longer side, and no hidden colour bleeds."""
    picture = compositions.render(cut_out(), Composition(0.5, 0.5, 0.25, False, "#0000ff"), 64)
    pixels = np.asarray(picture).astype(int)
    assert picture.mode == "RGB"
    rows, columns = np.nonzero(pixels[..., 0] > 128)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (8, 24, 16, 48)
    assert pixels[..., 1].max() == 0
    assert (pixels[0, 0] == (0, 0, 255)).all()


def test_a_flipped_item_is_its_mirror_image() -> None:
    """In the middle of the picture the whole of it is mirrored."""
    item = cut_out()
    item.paste((0, 0, 0, 255), (50, 10, 60, 30))
    straight, flipped = (
        compositions.render(item, Composition(0.5, 0.5, 0.5, flip, "#ffffff"), 64)
        for flip in (False, True)
    )
    assert straight != flipped
    assert straight.transpose(Image.Transpose.FLIP_LEFT_RIGHT) == flipped


def test_draws_repeat_and_stay_inside() -> None:
    """A seed gives the same composition again; each item lies wholly inside of its picture."""
    value = BACKGROUNDS["teal"]
    for seed in range(200):
        drawn = compositions.draw(np.random.default_rng(seed), value)
        assert drawn == compositions.draw(np.random.default_rng(seed), value)
        assert 0.55 <= drawn.scale <= 0.85
        assert all(drawn.scale / 2 < place < 1 - drawn.scale / 2 for place in (drawn.x, drawn.y))
        assert drawn.pattern is None
    assert compositions.draw(np.random.default_rng(0), value, plain=False).pattern is not None


def test_an_item_that_cannot_be_seen_is_refused() -> None:
    """A picture without a visible pixel has nothing to compose."""
    with pytest.raises(ValueError, match="transparent everywhere"):
        compositions.cropped(Image.new("RGBA", (8, 8)), 64)


@pytest.mark.parametrize("kind", KINDS)
def test_each_pattern_leaves_both_of_its_colours(kind: str) -> None:
    """Of a grey picture about the stated share is under ink, in whole pixels of it."""
    pattern = Pattern(kind, 0.125, 0.3, (0, 0, 0), (255, 255, 255), 1)  # type: ignore[arg-type]
    pixels = np.asarray(applied(pattern, Image.new("RGB", (128, 128), (128, 128, 128))))
    assert (pixels == 0).any()
    assert (pixels == (255 if kind == "halftone" else 128)).any()
    inked = 1 - pixels.mean() / (255 if kind == "halftone" else 128)
    assert inked == pytest.approx(0.09 * np.pi if kind == "dots" else 0.5, abs=0.03)


def test_a_halftone_has_more_ink_where_it_is_darker() -> None:
    """Its dots keep the picture's tones, with a little more contrast."""
    ramp = Image.linear_gradient("L").convert("RGB")  # black above, white below
    pattern = Pattern("halftone", 0.05, 0.5, (0, 0, 0), (255, 255, 255), 1)
    rows = np.asarray(applied(pattern, ramp)).mean(axis=(1, 2))
    assert rows.reshape(8, 32).mean(axis=1) == pytest.approx(np.arange(8) * 32 + 16, abs=20)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("orange", "an orange"),
        ("ice skate", "an ice skate"),
        ("ice skates", "ice skates"),
        ("hourglass", "an hourglass"),
        ("honey pot", "a honey pot"),
        ("unicorn face", "a unicorn face"),
        ("umbrella", "an umbrella"),
        ("bus", "a bus"),
        ("compass", "a compass"),
        ("slice of pizza", "a slice of pizza"),
        ("drum with drumsticks", "a drum with drumsticks"),
        ("womans boots", "womans boots"),
        ("bread", "bread"),
    ],
)
def test_articles_are_right(words: str, said: str) -> None:
    """The sound decides, and plurals and mass nouns have none."""
    assert compositions.with_article(words) == said


def test_captions_say_item_and_colour() -> None:
    """The plain one is always the same; the others vary, and each names both."""
    rng = np.random.default_rng(0)
    said = {compositions.caption(rng, "umbrella", "orange", plain=False) for _ in range(200)}
    assert len(said) == len(compositions.TEMPLATES)
    assert all("umbrella" in words and "orange" in words for words in said)
    assert "a orange" not in "".join(said)
    plain = compositions.caption(rng, "umbrella", "orange", plain=True)
    assert plain == "umbrella on an orange background"


def test_a_tenth_of_the_pairs_is_held_out_evenly() -> None:
    """Each item loses one to three colours, and each colour is lost about equally often."""
    pairs = compositions.held_out(ITEMS, BACKGROUNDS, seed=1)
    assert len(pairs) == round(206 * 12 / 10)
    by_item = Counter(item for item, _ in pairs)
    by_colour = Counter(colour for _, colour in pairs)
    assert by_item.keys() == set(ITEMS)
    assert max(by_item.values()) <= 3
    assert max(by_colour.values()) - min(by_colour.values()) <= 2
    assert pairs != compositions.held_out(ITEMS, BACKGROUNDS, seed=2)


def test_no_item_loses_all_of_its_colours() -> None:
    """Of few colours one is always left; of a single one none can be spared."""
    assert compositions.held_out(["mug"], ["red"]) == set()
    assert len(compositions.held_out(["mug"], ["red", "blue"], share=1)) == 1
    assert compositions.held_out(ITEMS, BACKGROUNDS, share=0) == set()


def test_what_is_held_out_does_not_depend_on_the_process() -> None:
    """Another hash seed and another order of items give the same pairs."""
    code = (
        "from workers.training.compositions import held_out\n"
        "print(sorted(held_out(('pen', 'mug', 'cup'), ('red', 'blue', 'green'))))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    ours = compositions.held_out(("mug", "cup", "pen"), ("green", "red", "blue"))
    assert said.strip() == str(sorted(ours))
