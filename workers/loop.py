"""The child process of a worker: wakes up, works until nothing is left, looks again."""

import logging
import os
import random
import threading
from collections.abc import Callable

from sqlalchemy.exc import DBAPIError

from jobs.devices import Slot
from jobs.services import wait_until_migrated
from jobs.settings import Settings
from workers.family import Device
from workers.pulse import Pulse
from workers.runner import DeviceLostError, Runner
from workers.stopping import Pause, wait

_log = logging.getLogger(__name__)

DEVICE_LOST = os.EX_TEMPFAIL
"""The exit code of a child that must be started anew to use its device again."""


class WorkLoop:
    """Drains the pool's queue when a wake-up comes, and now and then without one.

    The second is what makes the broker dispensable: work goes on while it is away, and whatever
    it loses costs a few seconds.
    """

    def __init__(
        self, settings: Settings, slot: Slot, stopping: Callable[[], bool], pause: Pause
    ) -> None:
        name = slot.worker_name
        self._says = f"worker {name} is up on {slot.name}"
        self._engine = settings.engine(f"presswork {name}", keep_plans=True)
        self._pulse = Pulse(
            self._engine,
            name=name,
            pool=settings.pool,
            device=slot.name,
            every_s=min(settings.lease_s / 3, 10),
        )
        self._runner = Runner(
            settings,
            self._engine,
            settings.objects(),
            self._pulse,
            Device(slot.type),
            name=name,
            stopping=stopping,
            pause=pause,
        )
        self._stopping = stopping
        self._idle_look_s = settings.idle_look_s
        self._busy = threading.Lock()
        self._wanted = threading.Event()
        self._up = threading.Event()
        self._ended = threading.Event()
        self._idle = threading.Thread(target=self._look_now_and_then, name="idle look")

    def start(self) -> None:
        """Begin: the worker is up as soon as the database is as this code needs it."""
        self._idle.start()

    def stop(self) -> None:
        """End; a batch under way is released between two steps, once ``stopping`` says so."""
        self._ended.set()
        self._idle.join()
        with self._busy:
            self._runner.close()
        if self._up.is_set():
            self._pulse.stop()
        self._engine.dispose()

    def drain(self) -> None:
        """Work until the queue has nothing left for this worker.

        Called while a drain is under way it returns at once: that one will look once more. Called
        before the worker is up it returns as well: looking is the first thing it will do.
        """
        if not self._up.is_set():
            return
        self._wanted.set()
        while self._wanted.is_set() and self._busy.acquire(blocking=False):
            try:
                self._wanted.clear()
                while not self._stopping() and self._runner.run_next():
                    wait(self._runner.pause_s, self._stopping)
            except DBAPIError as error:
                _log.warning("the database does not answer: %s", error.orig)
            except DeviceLostError:
                # From whichever thread: Celery's parent starts a new child, and has the wake-up
                # that this one was at delivered again.
                _log.critical("the device works no more for this process: starting anew")
                os._exit(DEVICE_LOST)
            finally:
                self._busy.release()

    def _look_now_and_then(self) -> None:
        if not wait_until_migrated(self._engine, self._ended.wait):
            return
        self._pulse.start()
        # Of the child before this one, which was sick.
        wait(self._runner.pause_s, self._is_over)
        self._up.set()
        _log.info("%s", self._says)
        while not self._ended.is_set():
            try:
                self.drain()
            except Exception:  # noqa: BLE001 (the next look may go better)
                _log.exception("a drain failed; looking again later")
            # Spread, so that many workers do not ask in step.
            self._ended.wait(self._idle_look_s * random.uniform(0.8, 1.2))  # noqa: S311

    def _is_over(self) -> bool:
        return self._stopping() or self._ended.is_set()
