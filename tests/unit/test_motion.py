"""The Ken Burns effect: windows that move and never leave the picture."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.families.slideshow.motion import MOTIONS, chosen, focus, window

side = st.integers(2, 4000)


@given(
    st.sampled_from([*MOTIONS, "none"]),
    st.floats(0, 1),
    st.tuples(side, side),
    st.tuples(side, side),
    st.integers(0, 99),
)
def test_windows(
    motion: str, progress: float, picture: tuple[int, int], film: tuple[int, int], seed: int
) -> None:
    """They lie inside of the picture and have the shape of the film."""
    left, top, right, bottom = window(motion, progress, picture, film, focus(seed, 0))
    assert 0 <= left < right <= picture[0]
    assert 0 <= top < bottom <= picture[1]
    assert (right - left) / (bottom - top) == pytest.approx(film[0] / film[1], rel=1e-6)


@pytest.mark.parametrize("motion", MOTIONS)
def test_motions_are_even(motion: str) -> None:
    """From each moment to the next it is as far as ever: nothing jumps."""
    boxes = [window(motion, at / 100, (400, 300), (320, 180), (0.3, 0.7)) for at in range(101)]
    for edge in range(4):
        steps = [after[edge] - before[edge] for before, after in pairwise(boxes)]
        assert steps == pytest.approx([steps[0]] * 100, abs=1e-6)


@pytest.mark.parametrize(
    ("motion", "edge", "sign"),
    [("pan-left", 0, -1), ("pan-right", 0, 1), ("pan-up", 1, -1), ("pan-down", 1, 1)],
)
def test_pans(motion: str, edge: int, sign: int) -> None:
    """One looks ever further to the side that the motion is named after."""
    places = [window(motion, at / 9, (400, 300), (320, 180), (0.5, 0.5)) for at in range(10)]
    assert all(sign * (after[edge] - before[edge]) > 0 for before, after in pairwise(places))


def test_zooms() -> None:
    """A zoom in ends with less of the picture, and a zoom out begins so."""
    widths = [
        [
            box[2] - box[0]
            for box in (
                window(motion, at, (400, 300), (320, 180), (0.5, 0.5)) for at in (0, 0.5, 1)
            )
        ]
        for motion in ("zoom-in", "zoom-out")
    ]
    assert widths[0] == sorted(widths[0], reverse=True)
    assert widths[1] == pytest.approx(widths[0][::-1])
    assert widths[0][0] > widths[0][-1]


def test_auto() -> None:
    """The seed chooses, no two pictures in a row move alike, and all motions come about."""
    for seed in range(20):
        motions = [chosen("auto", seed, number) for number in range(6)]
        assert sorted(motions) == sorted(MOTIONS)
    assert len({chosen("auto", seed, 0) for seed in range(50)}) == len(MOTIONS)
    assert chosen("pan-up", 1, 0) == "pan-up"
