"""Where else the numbers of a training go: trackers of others, none of which can harm it."""

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from uuid import UUID

from accelerate import PartialState
from accelerate.tracking import GeneralTracker, MLflowTracker, TrackioTracker, WandBTracker

_log = logging.getLogger(__name__)

PROJECT = "presswork"
MOST_WAITING = 1000
FINISH_S = 10.0
"""How long a training waits at its end for what has not been sent yet."""

# Of themselves they would send along what is printed, and what the process and its machine are.
_WANDB = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "save_code": False,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}
_TRACKIO = {"auto_log_cpu": False, "auto_log_gpu": False, "embed": False}
_MLFLOW = {"mlflow.source.name": PROJECT, "mlflow.user": PROJECT}


def chosen(names: Sequence[str], job_id: UUID) -> list[GeneralTracker]:
    """The trackers of those names, see `jobs.settings.TRACKERS`: not started, one run per job."""
    run = str(job_id)
    make: dict[str, Callable[[], GeneralTracker]] = {
        "wandb": lambda: WandBTracker(PROJECT, id=run, name=run, resume="allow", settings=_WANDB),
        "trackio": lambda: TrackioTracker(PROJECT, name=run, resume="allow", **_TRACKIO),
        "mlflow": lambda: MLflowTracker(PROJECT, run_name=run, tags=_MLFLOW),
    }
    return [make[name]() for name in names]


class Trackers:
    """Trackers that are told by a thread of their own, from which nobody else can use them.

    One that fails is logged, and left out if it cannot even start. What they do not take in time
    is dropped.
    """

    def __init__(self, trackers: Sequence[GeneralTracker]) -> None:
        self._trackers = trackers
        self._waiting: queue.Queue[tuple[dict[str, float], int] | None] = queue.Queue(MOST_WAITING)
        self._failing: set[str] = set()
        # A daemon: one that hangs must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="trackers", daemon=True)
        if trackers:
            self._thread.start()

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Tell them what was measured after ``step`` steps."""
        if self._trackers:
            with suppress(queue.Full):
                self._waiting.put_nowait((dict(numbers), step))

    def finish(self) -> None:
        """End their runs."""
        if not self._trackers:
            return
        with suppress(queue.Full):
            self._waiting.put(None, timeout=FINISH_S)
        self._thread.join(FINISH_S)
        if self._thread.is_alive():
            _log.warning("trackers: not everything could be sent within %g s", FINISH_S)

    def _run(self) -> None:
        PartialState()  # without it, accelerate's trackers cannot even log
        started = [
            tracker for tracker in self._trackers if self._do(tracker, "start", tracker.start)
        ]
        while (told := self._waiting.get()) is not None:
            numbers, step = told
            for tracker in started:
                self._do(tracker, "log", partial(tracker.log, numbers, step=step))
        for tracker in started:
            self._do(tracker, "finish", tracker.finish)

    def _do(self, tracker: GeneralTracker, what: str, call: Callable[[], None]) -> bool:
        try:
            call()
        except Exception as error:  # noqa: BLE001 (libraries raise what they like)
            if tracker.name not in self._failing:  # once, until it works again
                if isinstance(error, ImportError):
                    what += f", install presswork[{tracker.name}]"
                _log.warning("tracker %s: could not %s: %r", tracker.name, what, error)
            self._failing.add(tracker.name)
            return False
        self._failing.discard(tracker.name)
        return True
