"""The child process of a worker: wakes up, works until nothing is left, looks again."""

import logging
import random
import threading
from collections.abc import Callable

from sqlalchemy.exc import DBAPIError

from jobs.devices import Slot
from jobs.settings import Settings
from workers.family import Device
from workers.pulse import Pulse
from workers.runner import Runner
from workers.stopping import wait

_log = logging.getLogger(__name__)


class WorkLoop:
    """Drains the pool's queue when a wake-up comes, and now and then without one.

    The second is what makes the broker dispensable: work goes on while it is away, and whatever
    it loses costs a few seconds.
    """

    def __init__(self, settings: Settings, slot: Slot, stopping: Callable[[], bool]) -> None:
        name = slot.worker_name
        self._engine = settings.engine(f"presswork {name}")
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
        )
        self._stopping = stopping
        self._idle_look_s = settings.idle_look_s
        self._busy = threading.Lock()
        self._wanted = threading.Event()
        self._ended = threading.Event()
        self._idle = threading.Thread(target=self._look_now_and_then, name="idle look")

    def start(self) -> None:
        """From here on the worker is up."""
        self._pulse.start()
        self._idle.start()

    def stop(self) -> None:
        """End; a batch under way is released between two steps, once ``stopping`` says so."""
        self._ended.set()
        self._idle.join()
        with self._busy:
            self._runner.close()
        self._pulse.stop()
        self._engine.dispose()

    def drain(self) -> None:
        """Work until the queue has nothing left for this worker.

        Called while a drain is under way it returns at once: that one will look once more.
        """
        self._wanted.set()
        while self._wanted.is_set() and self._busy.acquire(blocking=False):
            try:
                self._wanted.clear()
                while not self._stopping() and self._runner.run_next():
                    wait(self._runner.pause_s, self._stopping)
            except DBAPIError as error:
                _log.warning("the database does not answer: %s", error.orig)
            finally:
                self._busy.release()

    def _look_now_and_then(self) -> None:
        # Spread, so that many workers do not ask in step.
        while not self._ended.wait(self._idle_look_s * random.uniform(0.8, 1.2)):  # noqa: S311
            try:
                self.drain()
            except Exception:  # noqa: BLE001 (the next look may go better)
                _log.exception("a drain failed; looking again later")
