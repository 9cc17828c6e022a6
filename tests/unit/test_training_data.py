"""The items of a dataset that are learnt, and those that are only evaluated on."""

import pytest

from workers.training.data import Data


def texts(count: int, digest: str = "a" * 64) -> Data:
    """A dataset of so many texts."""
    return Data(digest, None, texts=[{"prompt": str(n), "completion": "x"} for n in range(count)])


@pytest.mark.parametrize(
    ("count", "share", "out"),
    [(100, 0.1, 10), (100, 0.0, 0), (12, 0.01, 1), (3, 0.5, 2), (2, 0.5, 1), (1, 0.5, 0)],
)
def test_a_share_is_held_out(count: int, share: float, out: int) -> None:
    """Every item is in one of the two; of a share that is not 0 at least one, but never all."""
    learnt, held_out = texts(count).divided(share, seed=1)
    assert len(held_out) == out
    assert sorted(learnt + held_out) == list(range(count))


def test_the_division_is_that_of_seed_and_content() -> None:
    """An attempt that goes on evaluates on what it has not learnt; another seed divides anew."""
    data = texts(100)
    assert data.divided(0.2, seed=1) == texts(100).divided(0.2, seed=1)
    assert data.divided(0.2, seed=1) != data.divided(0.2, seed=2)
    assert data.divided(0.2, seed=1) != texts(100, "b" * 64).divided(0.2, seed=1)
    # A larger share holds out more than a smaller one, and all of that.
    assert set(data.divided(0.1, seed=1)[1]) < set(data.divided(0.2, seed=1)[1])
