"""Having a worker make things until it does so at its full speed."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from benchmarks.workers.loads import Load, Picture
from benchmarks.workers.plant import NothingComesError, Plant

PATIENCE_S = 1800.0
EAGER = 5
EAGER_STEPS = 60
"""Batches, and steps, after which a worker has had enough of it eager to have it compiled."""
BATCHES = 3
"""Made of each size where the worker does not say whether it runs compiled."""
QUIET = 2
"""Rounds without an eager call: of several processes one may have had no such call in the first."""

COMPILING = ("compiles", "recompiles", "recompile_limit", "compile_failures")
"""What a worker counts that must not happen any more once it is warm."""


class Numbers:
    """Of pictures: none comes twice, or its job may be known already."""

    _next = itertools.count(1_000_000, 1_000_000)

    def take(self, count: int) -> int:
        """The first of ``count``."""
        assert count <= 1_000_000
        return next(self._next)


def eager_calls(counters: Mapping[str, float]) -> float:
    """Calls of a module that ran eager although its plan is to be compiled."""
    return counters.get("eager_fallbacks", 0)


def recompiles(counters: Mapping[str, float]) -> float:
    """Programs that were compiled, or should have been, and calls that none of them took."""
    return sum(counters.get(n, 0) for n in COMPILING)


def counts(counters: Mapping[str, float]) -> bool:
    """Whether these workers count what they compile."""
    return "eager_fallbacks" in counters


def warm(
    plant: Plant,
    loads: Sequence[Load],
    numbers: Numbers,
    make: Callable[[], object] | None = None,
) -> None:
    """Have each size of the loads made, or ``make`` called, until nothing of it runs eager.

    A worker that does not count has a few batches made.
    """
    deadline = time.monotonic() + PATIENCE_S
    for load in loads:
        for size in load.sizes:

            def batches(count: int, load: Load = load, size: str = size) -> None:
                first = numbers.take(count * load.batch)
                pictures = [
                    Picture(number, f"mug number {number}", 1, size)
                    for number in range(first, first + count * load.batch)
                ]
                plant.span_s(plant.submit_campaign(load, pictures))

            slots = plant.slots()
            if load.compiled and make is None:
                batches(slots * max(EAGER, EAGER_STEPS // load.steps))
            once = make or partial(batches, 2 * slots)
            _until_compiled(plant, once, deadline, compiled=load.compiled)


def _until_compiled(
    plant: Plant, make: Callable[[], object], deadline: float, *, compiled: bool
) -> None:
    before, quiet = plant.counters(), 0
    for attempt in itertools.count(1):
        make()
        if not compiled or (not counts(before) and attempt >= BATCHES):
            return
        plant.beat()
        after = plant.counters()
        is_quiet = counts(before) and eager_calls(after) == eager_calls(before)
        quiet = quiet + 1 if is_quiet and plant.has_compiled_code() else 0
        if quiet == QUIET:
            return
        if time.monotonic() > deadline:
            raise NothingComesError(f"it still runs eager: {after}")
        before = after
