"""The flag by which a worker's child learns that it should stop."""

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection

import pytest

from workers.stopping import StopFlag, wait

LONG_S = 60


def look_for_ever(flag: StopFlag, started: Connection) -> None:
    """What a busy child does, without a pause."""
    started.send(None)
    while not flag():
        pass


# From 3.12 on Python warns of any fork beside threads; this child does nothing but look.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_that_is_killed_while_it_looks_stops_nobody_else() -> None:
    """The flag can be set, and is seen by the next child, wherever the one before was killed."""
    fork = multiprocessing.get_context("fork")
    flag = StopFlag()
    for _ in range(5):
        told, tell = fork.Pipe(duplex=False)
        child = fork.Process(target=look_for_ever, args=(flag, tell))
        child.start()
        told.recv()
        assert child.pid
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        tell.close()
        told.close()
    told, tell = fork.Pipe(duplex=False)
    last = fork.Process(target=look_for_ever, args=(flag, tell))
    last.start()
    told.recv()
    flag.set()
    last.join(LONG_S)
    assert last.exitcode == 0
    tell.close()
    told.close()


def test_a_pause_ends_with_a_stop() -> None:
    """Who waits does not keep a worker from stopping."""
    flag = StopFlag()
    flag.set()
    began = time.monotonic()
    wait(LONG_S, flag)
    assert time.monotonic() - began < LONG_S / 2


def test_a_pause_lasts() -> None:
    """Without a stop the whole time passes."""
    began = time.monotonic()
    wait(0.3, StopFlag())
    assert time.monotonic() - began >= 0.3
