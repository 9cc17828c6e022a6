"""Notices that this worker has gone deaf: wake-ups wait, it is idle, and takes none of them.

Celery connects anew after most faults of a broker, but not after all: a connection may go silent
without an end, and a consumer may come back without consuming.
"""

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import psutil
from celery.signals import task_received, worker_ready
from celery.worker import state

from jobs.queue import WakeUps

_log = logging.getLogger(__name__)

LOOK_S = 3.0
LOOKS = 5
"""So many in a row find a deaf worker; one that is well takes a wake-up in milliseconds.

Looks, not seconds: a machine that slept was not deaf.
"""
RESTARTS = 3
"""How often in a row the consumer is restarted before the whole worker is.

Together that is longer than the 30 s that Celery may wait between two attempts to connect.
"""
GRACE_S = 30.0


class Watchdog:
    """A thread in Celery's process, with a connection to the broker of its own."""

    def __init__(self, broker_url: str, pools: Sequence[str], stopping: Callable[[], bool]) -> None:
        self._broker_url = broker_url
        self._pools = pools
        self._stopping = stopping
        self._taken = 0
        self._seen = 0
        self._silent = 0
        self._restarts = 0
        self._looking = threading.Lock()
        self._pause = threading.Event()

    def watch(self) -> None:
        """Begin as soon as Celery consumes."""
        task_received.connect(self._note_taken, weak=False)
        worker_ready.connect(self._start, weak=False)

    def _start(self, **_: Any) -> None:
        # A child that is forked in the middle of a look would inherit locks that nobody opens.
        os.register_at_fork(
            before=self._looking.acquire,
            after_in_parent=self._looking.release,
            after_in_child=self._looking.release,
        )
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def _note_taken(self, **_: Any) -> None:
        self._taken += 1

    def _run(self) -> None:
        # Made here: Celery takes the app that a thread made last for that thread's own.
        wake_ups = WakeUps(self._broker_url)
        while not self._stopping():
            try:
                with self._looking:
                    self._look(wake_ups)
            except Exception:  # noqa: BLE001 (the next look may go better)
                _log.exception("the watchdog failed; looking again later")
            if self._restarts > RESTARTS:
                self._end()
            self._pause.wait(LOOK_S)

    def _look(self, wake_ups: WakeUps) -> None:
        waiting = sum(wake_ups.waiting(pool) or 0 for pool in self._pools)
        if self._taken > self._seen:
            self._seen = self._taken
            self._silent = self._restarts = 0
        # A busy worker leaves them to others; and connecting to a broker is Celery's own task.
        if not waiting or state.reserved_requests or state.active_requests:
            self._silent = 0
            return
        self._silent += 1
        if self._silent < LOOKS:
            return
        self._silent = 0
        self._restarts += 1
        if self._restarts <= RESTARTS:
            wake_ups.disconnect()
            _log.error(
                "%d wake-ups wait for %s and none was taken for %.0f s: "
                "restart %d of the consumer, by cutting %d connections",
                waiting,
                ", ".join(self._pools),
                LOOKS * LOOK_S,
                self._restarts,
                cut_connections(),
            )

    def _end(self) -> None:
        _log.error("%d restarts of the consumer did not help: ending this worker", RESTARTS)
        os.kill(os.getpid(), signal.SIGTERM)
        self._pause.wait(GRACE_S)
        # Whatever holds Celery up holds up its end as well. The lease brings the batch back.
        os.kill(os.getpid(), signal.SIGKILL)


def cut_connections() -> int:
    """Shut down every TCP connection of this process; how many there were.

    Whatever waits for one of them is told that it has ended, in whichever thread it is.
    """
    cut = 0
    for connection in psutil.Process().net_connections("tcp"):
        if connection.status != psutil.CONN_ESTABLISHED:
            continue
        with suppress(OSError):  # it was closed meanwhile
            descriptor = os.dup(connection.fd)
            try:
                with socket.socket(fileno=descriptor) as shared:
                    shared.shutdown(socket.SHUT_RDWR)
                    cut += 1
            except OSError:
                os.close(descriptor)
                raise
    return cut
