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
from workers.compile_results import CompileResults
from workers.compiled import Compiler
from workers.family import Device
from workers.pulse import Pulse
from workers.report import Report
from workers.runner import DeviceLostError, Runner
from workers.sickness import Sickness, sickness_of
from workers.stopping import Pause, wait

_log = logging.getLogger(__name__)

IDLE_S = 30
"""How long a worker that was stopped in the middle of a transaction keeps jobs locked by it."""

DEVICE_LOST = os.EX_TEMPFAIL
"""The exit code of a child that must be started anew to use its device again."""


def device_of(settings: Settings, slot: Slot, compiler: Compiler | None = None) -> Device:
    """The slot's device, in the precision that the settings ask for."""
    if settings.dtype == "auto":
        return Device(
            slot.type, "bfloat16" if slot.type == "cuda" else "float32", slot.shares, compiler
        )
    return Device(slot.type, settings.dtype, slot.shares, compiler)


def compiler_of(settings: Settings, slot: Slot, report: Report) -> Compiler | None:
    """What compiles for the slot; None: the settings ask for none."""
    if not settings.compiles_on(slot.type):
        return None
    if settings.signing_key is None:
        _log.warning("compiled code is not kept: set PRESSWORK_SIGNING_KEY to share it")
        return Compiler(report=report)
    return Compiler(CompileResults(settings.objects(), settings.signing_key), report)


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
        self._engine = settings.engine(f"presswork {name}", keep_plans=True, idle_s=IDLE_S)
        self._pulse = Pulse(
            self._engine,
            name=name,
            pool=",".join(settings.pools),
            device=slot.name,
            every_s=min(settings.lease_s / 3, 10),
        )
        self._compiler = compiler_of(settings, slot, self._pulse.report)
        self._runner = Runner(
            settings,
            self._engine,
            settings.objects(),
            self._pulse,
            device_of(settings, slot, self._compiler),
            name=name,
            stopping=stopping,
            pause=pause,
        )
        self._stopping = stopping
        self._pause = pause
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
        if self._compiler:
            self._compiler.close()
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
                self._runner.drain()
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
        crashed = self._pause.note_crash()
        if crashed:
            _log.warning(
                "the process before this one died at work: claiming nothing for %.0f s",
                self._pause.seconds,
            )
        # Of the child before this one, which was sick.
        wait(self._runner.pause_s, self._is_over)
        # What is compiled ahead is not claimed, so that no attempt is counted: should it kill this
        # process, the next one leaves it to those who count.
        if self._compiler and not crashed:
            with self._pause.working():
                self._compile_ahead()
        self._up.set()
        _log.info("%s", self._says)
        while not self._ended.is_set():
            try:
                self.drain()
            except Exception:  # noqa: BLE001 (the next look may go better)
                _log.exception("a drain failed; looking again later")
            # Spread, so that many workers do not ask in step.
            self._ended.wait(self._idle_look_s * random.uniform(0.8, 1.2))  # noqa: S311

    def _compile_ahead(self) -> None:
        """Begin to compile what the queue will need first, rather than when it does."""
        try:
            self._runner.warm()
        except Exception as error:  # noqa: BLE001 (whatever it was, the jobs will say so themselves)
            _log.warning("could not compile ahead", exc_info=True)
            if sickness_of(error) is Sickness.DEVICE_ERROR:
                os._exit(DEVICE_LOST)  # or a job that had no part in it would pay

    def _is_over(self) -> bool:
        return self._stopping() or self._ended.is_set()
