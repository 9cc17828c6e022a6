"""Waiting for what another process does, as fast as it happens and never longer than allowed."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LOOK_S = 0.02


def until(condition: Callable[[], T | None], *, timeout_s: float = 60, what: str = "") -> T:
    """The first true value of ``condition``; AssertionError if there is none in time."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what or condition}"
        pause.wait(LOOK_S)
    return value
