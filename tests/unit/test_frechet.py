"""The Fréchet distance of pictures' features."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from workers.training import frechet
from workers.training.features import RandomNetwork, features_of
from workers.training.judges import Judge, as_tensor


def pictures(seed: int, count: int = 96) -> list[Image.Image]:
    """Discs and squares of any colour on backgrounds of any colour."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        picture = Image.new("RGB", (64, 64), tuple(rng.integers(256, size=3)))
        draw = ImageDraw.Draw(picture)
        left, top = rng.integers(4, 28, 2)
        box = (left, top, left + 32, top + 32)
        shape = draw.ellipse if number % 2 else draw.rectangle
        shape(box, fill=tuple(rng.integers(256, size=3)))
        made.append(picture)
    return made


def numbers(made: list[Image.Image]) -> float:
    """How far they are from other pictures of the same sort."""
    return frechet.numbers(RandomNetwork(), as_tensor(made), as_tensor(pictures(0)))["frechet"]


def test_it_is_that_between_normal_distributions() -> None:
    """For covariances that commute it is known in closed form, also with few samples."""
    rng = np.random.default_rng(0)
    # Columns that are orthogonal and have mean 0, so that covariances are diagonal.
    drawn = rng.normal(size=(40, 6))
    base, _ = np.linalg.qr(drawn - drawn.mean(axis=0))
    first, second = base * [1, 2, 3, 4, 5, 6], base * [6, 5, 4, 3, 2, 1] + 0.5
    means = 6 * 0.25
    spreads = sum((a - b) ** 2 for a, b in zip(range(1, 7), range(6, 0, -1), strict=True)) / 39
    assert frechet.distance(first, second) == pytest.approx(means + spreads, rel=1e-12)
    # Fewer samples than features, where no covariance has full rank.
    wide = np.pad(first[:, :2], ((0, 0), (0, 60)))
    assert frechet.distance(wide, wide + 1) == pytest.approx(62, rel=1e-12)
    assert frechet.distance(first, first) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("made", "real", "message"),
    [
        (np.zeros((5, 3)), np.zeros((5, 4)), "one extractor"),
        (np.zeros((1, 3)), np.zeros((5, 3)), "two pictures"),
        (np.full((5, 3), np.nan), np.zeros((5, 3)), "not finite"),
    ],
)
def test_features_that_are_none(made: Tensor, real: Tensor, message: str) -> None:
    """It says why, rather than a number."""
    with pytest.raises(ValueError, match=message):
        frechet.distance(made, real)


def test_worse_pictures_are_further() -> None:
    """More blur, more noise and fewer different pictures each take them further away."""
    good = pictures(1)
    floor = numbers(good)

    def blurred(radius: float) -> float:
        return numbers([one.filter(ImageFilter.GaussianBlur(radius)) for one in good])

    def noisy(strength: float) -> float:
        rng = np.random.default_rng(2)
        arrays = [np.asarray(one) + rng.normal(0, strength, (64, 64, 3)) for one in good]
        return numbers([Image.fromarray(one.clip(0, 255).astype(np.uint8)) for one in arrays])

    def repeated(different: int) -> float:
        return numbers([good[place % different] for place in range(len(good))])

    assert floor < blurred(1) < blurred(3) < blurred(8)
    assert floor < noisy(10) < noisy(30) < noisy(90)
    assert floor < repeated(24) < repeated(8) < repeated(2)


def test_too_few_pictures_say_nothing() -> None:
    """Rather than a number that is mostly the smallness of the sample."""
    few = as_tensor(pictures(1, frechet.LEAST - 1))
    assert frechet.numbers(RandomNetwork(), few, as_tensor(pictures(0))) == {}


def test_the_random_network_is_always_the_same() -> None:
    """Making it takes nothing from a training's own draws, and batches make no difference."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    shown = pictures(0, 70)
    found = features_of(RandomNetwork(), shown)
    assert torch.equal(torch.get_rng_state(), before)
    assert found.shape == (70, 35)
    assert found[64:] == pytest.approx(features_of(RandomNetwork(), shown[64:]), rel=1e-5)
    assert found[0] == pytest.approx(features_of(RandomNetwork(), as_tensor(shown))[0], rel=1e-5)
    assert found[0, -3:] == pytest.approx([0.117599, 0.10532, 0.0375257], rel=1e-4)


def test_a_judge_sees_pictures_as_well() -> None:
    """Of any size and mode; what is transparent is white."""
    judge = Judge(["mug"], 32, (4, 8)).eval()
    clear = Image.new("RGBA", (50, 40), (255, 0, 0, 0))
    found = features_of(judge, [clear, Image.new("L", (64, 64), 255)])
    assert found.shape == (2, 8)
    assert found[0] == pytest.approx(found[1], rel=1e-5)
