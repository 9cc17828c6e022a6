"""What a measurement gives, and the arithmetic that all of them share."""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
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


def report(figures: Iterable[Figure], *, as_json: bool) -> list[Figure]:
    """Print each figure as it comes, and with ``as_json`` all of them in one object at the end."""
    found = []
    for figure in figures:
        found.append(figure)
        print(_line(figure), file=sys.stderr if as_json else sys.stdout, flush=True)
    if as_json:
        print(json.dumps({figure.name: figure.as_json() for figure in found}, indent=2))
    return found


def _line(figure: Figure) -> str:
    sign = ">=" if figure.at_least else "<="
    verdict = "met" if figure.met else "NOT MET"
    return (
        f"{figure.name}: {figure.value:.3g} {figure.unit}, target {sign} {figure.target:g}: "
        f"{verdict}\n    {figure.detail}"
    )
