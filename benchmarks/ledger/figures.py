"""What a measurement gives, and the arithmetic that all of them share."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One line of the table. ``at_least``: whether more is better, or less."""

    name: str
    value: float
    target: float
    unit: str
    detail: str
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        return self.value >= self.target if self.at_least else self.value <= self.target

    def as_json(self) -> dict[str, Any]:
        """Without its name, under which it is filed."""
        return {
            "value": self.value,
            "target": self.target,
            "unit": self.unit,
            "met": self.met,
            "detail": self.detail,
        }


@dataclass(frozen=True)
class Scale:
    """How much is measured: a million jobs, or fewer to see that the benchmark still works."""

    jobs: int

    @property
    def full(self) -> bool:
        """Whether the figures mean anything."""
        return self.jobs >= 100_000

    @property
    def tenth(self) -> int:
        """100,000 of a million."""
        return self.jobs // 10

    @property
    def few(self) -> int:
        """10,000 of a million."""
        return max(self.jobs // 100, 32)

    @property
    def churned(self) -> int:
        """200,000 of a million."""
        return self.jobs // 5

    @property
    def rounds(self) -> int:
        """How often each side of a comparison is measured."""
        return 5 if self.full else 2

    @property
    def seconds(self) -> float:
        """How long a rate is observed."""
        return 4.0 if self.full else 0.3

    @property
    def samples(self) -> int:
        """How many latencies make a percentile."""
        return 1000 if self.full else 20


Clock = Callable[[], float]
"""Seconds since the block began; after it, how long it took."""


@contextmanager
def timed() -> Iterator[Clock]:
    """Time a block."""
    started = time.perf_counter()
    ended: list[float] = []
    yield lambda: (ended[0] if ended else time.perf_counter()) - started
    ended.append(time.perf_counter())


def seconds_of(call: Callable[[], object]) -> float:
    """How long a call takes."""
    with timed() as took_s:
        call()
    return took_s()


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of the values that is not exceeded by ``percent`` of them."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)]


def alternated(rounds: int, **sides: Callable[[], float]) -> dict[str, list[float]]:
    """Measure each side in each round, so that a slow moment of the machine meets all of them."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, measure in sides.items():
            found[name].append(measure())
    return found


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the first against the median of the second."""
    return statistics.median(above) / statistics.median(below)


def shown(values: Sequence[float], unit: str, digits: int = 0) -> str:
    """Median and spread of some rounds, in words."""
    middle, least, most = statistics.median(values), min(values), max(values)
    return (
        f"{middle:,.{digits}f} {unit} ({least:,.{digits}f} to {most:,.{digits}f}, "
        f"{len(values)} rounds)"
    )
