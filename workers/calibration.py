"""Which size of call is best for a batch key: tried on its real jobs, a size after another."""

from collections import Counter
from collections.abc import Callable, Mapping

from workers.batching import GAIN, Rates, best_size, seconds

FIRST = 2
"""Where it begins: what a single item takes says little about the device, and is no batch."""
WARM_UP = 1
"""Calls of a size that do not count: the first chooses algorithms, allocates, compiles."""
COUNTED = 2
"""Calls of a size that count; the fastest does, since whatever disturbs a call makes it slower."""
HEADROOM = 0.9
"""Which share of the memory a call may be expected to need."""


class Calibration:
    """What is known of the calls of one batch key on this device, and which is tried next.

    The sizes grow by doubling until one makes few more items per second than the one before, is
    not expected to fit into memory, or is the most that there may be. ``limit`` is what running
    out of memory has taught; ``available`` tells how much memory the process could have in all.

    What is measured are calls that run as they are: only the best size is then compiled at once,
    see `workers.room`. How much faster that is, is noted beside it. Compiling
    makes the model faster, and not what a call has beside it (texts, steps of the scheduler), so
    that a larger call gains more than was measured: while one is shorter than ``short_s``, the
    next must only be as good.
    """

    def __init__(self, most: int, available: Callable[[], int], short_s: float = 0.0) -> None:
        self.most = most
        self._short_s = short_s
        self.limit: int | None = None
        self._available = available
        self._size: int | None = None
        self._calls: Counter[int] = Counter()
        # Replaced, never changed: a claim is prepared in another thread.
        self.rates: Rates = {}
        self._compiled: Rates = {}
        self.peaks: Mapping[int, int] = {}
        self._in_use: int | None = None

    @property
    def bound(self) -> int:
        """The most items of a call that may be tried."""
        return self.most if self.limit is None else min(self.most, self.limit)

    @property
    def trying(self) -> int | None:
        """The size that is being measured; None: the best one is known."""
        if self._size is not None:
            return None
        size, before = min(FIRST, self.bound), None
        while self._calls[size] >= WARM_UP + COUNTED:
            larger = min(size * 2, self.bound)
            is_short = size / self.rates[size] < self._short_s
            enough = 1 - GAIN if is_short else 1 + GAIN
            gains = before is None or self.rates[size] > self.rates[before] * enough
            if larger <= size or not gains or not self._fits(larger):
                return None
            size, before = larger, size
        return size

    @property
    def size(self) -> int:
        """The size of call that is the best, or the largest so far."""
        if self._size is not None:
            return min(self._size, self.bound)
        trying = self.trying
        if trying is not None:
            return trying
        possible = {size: rate for size, rate in self.rates.items() if size <= self.bound}
        return best_size(possible, self._short_s)

    @property
    def jobs_wanted(self) -> int:
        """How many jobs it takes until the next size can be tried."""
        trying = self.trying
        if trying is None:
            return self.size
        return trying * (WARM_UP + COUNTED - self._calls[trying])

    def adopt(self, rates: Rates) -> None:
        """Believe what was measured elsewhere, or earlier."""
        self.rates, self._size = rates, best_size(rates, self._short_s)

    def settle(self) -> bool:
        """Whether the best size has just been found, which is then kept.

        Under a limit it is not: when that is forgotten, larger calls are tried.
        """
        if self._size is not None or self.trying is not None or self.limit is not None:
            return False
        self._size = self.size
        return True

    def note(self, size: int, took_s: float, in_use: int | None, peak: int | None) -> None:
        """A call of ``size`` went well; in use were so many bytes before it, and at most.

        What is settled stays as it is: calls are planned alike from then on.
        """
        if self._size is not None:
            return
        self._calls[size] += 1
        if peak is not None:
            self._in_use = in_use
            self.peaks = {**self.peaks, size: max(peak, self.peaks.get(size, 0))}
        if self._calls[size] > WARM_UP:
            rate = size / max(took_s, 1e-9)
            self.rates = {**self.rates, size: max(rate, self.rates.get(size, 0.0))}

    def note_compiled(self, size: int, took_s: float) -> None:
        """A call of ``size`` went well in compiled code alone."""
        rate = size / max(took_s, 1e-9)
        self._compiled = {**self._compiled, size: max(rate, self._compiled.get(size, 0.0))}

    @property
    def expected(self) -> Rates:
        """What each size makes as it runs now.

        Compiled no less than as it is: a call that seems slower had a neighbour, such as whoever
        compiles the next one, and what is then left alone would never be measured again.
        """
        compiled = {
            size: max(rate, self.rates.get(size, 0.0)) for size, rate in self._compiled.items()
        }
        return {**self.rates, **compiled}

    def expected_s(self, size: int) -> float | None:
        """How long a call takes; None: nothing has been measured."""
        return seconds(size, self.expected) if self.rates else None

    def _fits(self, size: int) -> bool:
        """Whether a larger call is expected to fit: need grows by the item, as far as it did."""
        if not self.peaks or self._in_use is None:
            return True
        largest = max(self.peaks)
        smaller = [each for each in self.peaks if each < largest]
        start, base = (max(smaller), self.peaks[max(smaller)]) if smaller else (0, self._in_use)
        each = max(self.peaks[largest] - base, 0) / (largest - start)
        return self.peaks[largest] + each * (size - largest) <= self._available() * HEADROOM
