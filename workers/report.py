"""What a worker process says about itself: filled by who works, sent by the heartbeat."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from storage.workers import State

MINUTE_S = 60.0


class Report:
    """Safe to be filled and read by any thread.

    The heartbeat must never wait for a device, so that nothing is measured when it is read.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._lock = threading.Lock()
        self._state = State()
        self._made: deque[tuple[float, int]] = deque()
        self._counters: Counter[str] = Counter()

    def turn_to(self, batch_key: str | None) -> None:
        """A batch of this key begins; None: there is nothing to do."""
        with self._lock:
            self._state = replace(self._state, batch_key=batch_key)

    def note_models(self, names: Sequence[str]) -> None:
        """These are loaded now, the last used first."""
        with self._lock:
            self._state = replace(self._state, models=tuple(names))

    def note_memory(self, used_bytes: int, total_bytes: int) -> None:
        """What was measured just now."""
        with self._lock:
            self._state = replace(
                self._state, memory_used_bytes=used_bytes, memory_total_bytes=total_bytes
            )

    def note_made(self, outputs: int) -> None:
        """So many outputs have been stored and recorded."""
        with self._lock:
            self._made.append((self._clock(), outputs))
            self._forget()

    def count(self, counter: str, by: int = 1) -> None:
        """Something happened that is worth counting, such as ``compiles``."""
        with self._lock:
            self._counters[counter] += by

    def state(self) -> State:
        """What is to be said now."""
        with self._lock:
            self._forget()
            over_s = min(max(self._clock() - self._started, 1.0), MINUTE_S)
            rate = sum(outputs for _, outputs in self._made) / over_s
            return replace(self._state, outputs_per_s=round(rate, 3), counters=dict(self._counters))

    def _forget(self) -> None:
        while self._made and self._made[0][0] <= self._clock() - MINUTE_S:
            self._made.popleft()
