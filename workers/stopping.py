"""How the child process of a worker learns that it should stop, and waits no longer than that."""

import ctypes
import multiprocessing
import threading
from collections.abc import Callable

LOOK_S = 0.2


class StopFlag:
    """Set in a parent, seen in the child that it forked afterwards.

    One shared byte without a lock: an event's lock would stay taken for ever when the child is
    killed while it looks, and the next child would hang on it.
    """

    def __init__(self) -> None:
        self._flag = multiprocessing.RawValue(ctypes.c_bool, False)

    def set(self) -> None:
        """From now on everybody sees it."""
        self._flag.value = True

    def __call__(self) -> bool:
        """Whether it is time to stop."""
        return bool(self._flag.value)


def wait(seconds: float, stopping: Callable[[], bool]) -> None:
    """Let ``seconds`` pass, or less if it is time to stop."""
    pause = threading.Event()
    while seconds > 0 and not stopping():
        pause.wait(min(seconds, LOOK_S))
        seconds -= LOOK_S
