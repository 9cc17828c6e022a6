"""In which calls a batch is made, and how large they are best."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.batching import Rates, best_size, buckets, call_size, seconds
from workers.calibration import Calibration

IDLE: Rates = {2: 2.0, 4: 4.0, 8: 8.0, 16: 15.0}
"""Of a device that a small call leaves idle: each takes about a second."""
BUSY: Rates = {2: 1.9, 4: 2.1, 8: 2.1, 16: 2.1}
"""Of a device that one item keeps busy."""


def calls(
    count: int, most: int, rates: Rates, *, pads: bool = True, coarse: bool = False
) -> list[int]:
    """The sizes of all calls, one after another."""
    made = []
    while count > 0:
        made.append(call_size(count, most, rates, pads=pads, coarse=coarse))
        count -= made[-1]
    return made


@pytest.mark.parametrize(
    ("most", "sizes"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12])],
)
def test_buckets(most: int, sizes: list[int]) -> None:
    """Powers of two, and the most itself."""
    assert buckets(most) == sizes


@pytest.mark.parametrize(
    ("most", "sizes"), [(1, [1]), (2, [1, 2]), (8, [1, 2, 8]), (12, [1, 4, 12]), (16, [1, 4, 16])]
)
def test_coarse_buckets(most: int, sizes: list[int]) -> None:
    """Every second of them, the most and a single one among them."""
    assert buckets(most, coarse=True) == sizes


@pytest.mark.parametrize(
    ("count", "rates", "made"),
    [
        (16, IDLE, [16]),
        (35, IDLE, [16, 16, 4]),
        (9, IDLE, [16]),
        (9, BUSY, [8, 1]),
        (11, BUSY, [8, 2, 1]),
        (9, {}, [8, 1]),
        (7, {}, [8]),
        (3, {}, [4]),
        (1, {}, [1]),
        (1, IDLE, [1]),
    ],
)
def test_tails_by_what_was_measured(count: int, rates: Rates, made: list[int]) -> None:
    """They are filled up where that takes the least time, and split where it does not."""
    assert calls(count, 16, rates) == made


@given(
    st.integers(1, 80),
    st.integers(1, 32),
    st.dictionaries(st.integers(1, 32), st.floats(0.01, 1e4), max_size=6),
    st.booleans(),
)
def test_every_call_is_a_bucket(count: int, most: int, rates: Rates, coarse: bool) -> None:  # noqa: FBT001
    """Whatever was measured: no call is larger than allowed, and only the last has padding."""
    made = calls(count, most, rates, coarse=coarse)
    assert set(made) <= set(buckets(most, coarse=coarse))
    assert sum(made[:-1]) < count <= sum(made)
    assert all(seconds(size, rates) > 0 for size in buckets(most))


def test_tails_in_coarse_buckets() -> None:
    """They are filled up and split as others are, by fewer sizes."""
    assert calls(9, 16, BUSY, coarse=True) == [4, 4, 1]
    assert calls(9, 16, IDLE, coarse=True) == [16]


def test_a_family_that_does_not_pad() -> None:
    """Its last call is as large as is left."""
    assert calls(19, 8, IDLE, pads=False) == [8, 8, 3]


def test_the_best_size() -> None:
    """Small calls win unless larger ones make more items per second by more than a few per cent."""
    assert best_size(IDLE) == 16
    assert best_size(BUSY) == 4
    assert best_size({4: 1.0}) == 4
    assert best_size({2: 1.0, 4: 0.5}) == 2


def test_what_a_call_takes_that_was_not_measured() -> None:
    """On the line through its neighbours; a smaller one is neither slower nor faster per item."""
    rates = {2: 1.0, 4: 4 / 3, 8: 1.0}  # 2, 3 and 8 s
    assert seconds(4, rates) == 3
    assert seconds(1, rates) == 1.5
    assert seconds(6, rates) == 5.5
    assert seconds(16, rates) == 18
    assert seconds(1, {2: 2.0, 4: 8.0}) == 1  # not 1.25, which two take less than
    assert seconds(1, {4: 4.0, 8: 1.0}) == 0.25  # not less than its share


class Device:
    """Takes so long for a call, and so much memory for each item beside the model's 100."""

    def __init__(self, saturated: int, available: int = 10**6) -> None:
        self._saturated = saturated
        self._available = available

    def available(self) -> int:
        """Bytes that the process could use."""
        return self._available

    def calibrate(self, known: Calibration) -> list[int]:
        """Make calls until the best size is known; the sizes that were tried."""
        tried = []
        while not known.settle():
            size = known.trying
            assert size is not None
            tried.append(size)
            slow = 5 if tried.count(size) == 1 else 1  # the first is no measure
            known.note(size, slow * max(size / self._saturated, 1.0), 100, 100 + 10 * size)
        assert [tried.count(size) for size in tried] == [3] * len(tried)
        return sorted(set(tried))


def test_calls_grow_while_that_pays() -> None:
    """The first size that gains nothing is the last that is tried."""
    device = Device(saturated=8)
    known = Calibration(64, device.available)
    assert device.calibrate(known) == [2, 4, 8, 16]
    assert known.size == 8
    assert known.rates == {2: 2.0, 4: 4.0, 8: 8.0, 16: 8.0}
    assert known.trying is None
    known.limit = 4
    assert known.size == 4


def test_short_calls_grow_where_they_are_to_be_compiled() -> None:
    """A larger call that is only as good is taken, until one takes the time that is worth it."""
    device = Device(saturated=8)  # 8 and 16 items take 1 s and 2 s
    known = Calibration(64, device.available, short_s=1.5)
    assert device.calibrate(known) == [2, 4, 8, 16]
    assert known.size == 16
    elsewhere = Calibration(64, device.available, short_s=1.5)
    elsewhere.adopt({2: 2.0, 4: 4.0, 8: 8.0})  # measured where nothing is compiled
    assert elsewhere.size == 8
    worse = {2: 2.0, 4: 4.0, 8: 3.0}
    assert best_size(worse, short_s=1.5) == 4


def test_calls_grow_as_far_as_memory_does() -> None:
    """A size that is not expected to fit is never tried: 16 would take 260 of 270 bytes."""
    device = Device(saturated=64, available=270)
    known = Calibration(64, device.available)
    assert device.calibrate(known) == [2, 4, 8]
    assert known.size == 8


@pytest.mark.parametrize(("most", "tried"), [(1, [1]), (2, [2]), (6, [2, 4, 6])])
def test_calls_grow_up_to_the_most(most: int, tried: list[int]) -> None:
    """No call is larger than the model takes."""
    device = Device(saturated=64)
    known = Calibration(most, device.available)
    assert device.calibrate(known) == tried
    assert known.size == most


def test_nothing_is_settled_under_a_limit() -> None:
    """What had no room for larger calls once may have it later: then they are tried."""
    known = Calibration(64, Device(saturated=8).available)
    known.limit = 2
    for _ in range(3):
        known.note(2, 1.0, 100, 120)
    assert known.trying is None
    assert known.size == 2
    assert not known.settle()
    known.limit = None
    assert known.trying == 4


def test_jobs_that_are_wanted() -> None:
    """As many as the size being tried still needs, then as many as are best."""
    known = Calibration(64, Device(saturated=8).available)
    assert known.jobs_wanted == 6
    known.note(2, 1.0, None, None)
    assert known.jobs_wanted == 4
    known.adopt({2: 1.0, 4: 2.0})
    assert known.jobs_wanted == known.size == 4
