"""How the child process of a worker learns that it should stop, and waits no longer than that.

What outlasts the child lies in memory that it shares with its parent, a plain value without a
lock: the lock would stay taken for ever when the child is killed while it holds it.
"""

import ctypes
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOOK_S = 0.2
LONGEST_PAUSE_S = 60.0


class StopFlag:
    """Set in a parent, seen in the child that it forked afterwards."""

    def __init__(self) -> None:
        self._flag = multiprocessing.RawValue(ctypes.c_bool, False)

    def set(self) -> None:
        """From now on everybody sees it."""
        self._flag.value = True

    def __call__(self) -> bool:
        """Whether it is time to stop."""
        return bool(self._flag.value)


class Pause:
    """How long a worker claims nothing: it may be sick, and must not eat the queue.

    Made in a parent, it outlasts the child that was sick, or that died in the middle of its work.
    """

    def __init__(self) -> None:
        self._seconds = multiprocessing.RawValue(ctypes.c_double, 0.0)
        self._at_work = multiprocessing.RawValue(ctypes.c_bool, False)

    @property
    def seconds(self) -> float:
        """0 for a worker that is well."""
        return float(self._seconds.value)

    def lengthen(self) -> None:
        """Twice as long, from one second on."""
        self._seconds.value = min(max(self.seconds * 2, 1.0), LONGEST_PAUSE_S)

    def end(self) -> None:
        """The worker is well."""
        self._seconds.value = 0.0

    @contextmanager
    def working(self) -> Iterator[None]:
        """A child that does not live to see the end of this block has crashed."""
        self._at_work.value = True
        try:
            yield
        finally:
            self._at_work.value = False

    def note_crash(self) -> bool:
        """To be called by a new child: whether the one before has crashed; then it lengthens."""
        crashed = bool(self._at_work.value)
        if crashed:
            self._at_work.value = False
            self.lengthen()
        return crashed


def wait(seconds: float, stopping: Callable[[], bool]) -> None:
    """Let ``seconds`` pass, or less if it is time to stop."""
    pause = threading.Event()
    while seconds > 0 and not stopping():
        pause.wait(min(seconds, LOOK_S))
        seconds -= LOOK_S
