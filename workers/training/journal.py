"""What a training tells while it goes on: to SQL as events, to TensorBoard and others as curves."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Any, Self
from uuid import UUID

from accelerate.tracking import GeneralTracker
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionError

from jobs.events import EventName, numbers
from storage import job_events
from storage.job_events import NewEvent
from storage.objects import ObjectStore, ObjectStoreError
from workers.training.curves import Curves
from workers.training.trackers import Trackers

_log = logging.getLogger(__name__)

WRITE_EVERY_S = 1.0
WRITE_EVERY_AT_MOST_S = 60.0
"""Up to this the pause doubles while the database is away: each try may hold the training up."""
MOST_WAITING = 1000
"""Events that are kept while they cannot be written."""

_CURVES: Mapping[str, str] = MappingProxyType(
    {EventName.PROGRESS: "training", EventName.EVALUATED: "evaluation"}
)
"""The events whose numbers are drawn, and how the group of their curves is called."""


@dataclass(frozen=True)
class _Noted:
    name: str
    data: Mapping[str, Any]
    at_s: float


class Journal:
    """Of one claim's work on one job, for one thread. Nothing that fails here stops a training.

    A `flush` belongs before the job's finish, after which nothing is taken of this claim; `close`
    may take a while and come later. Only numbers go to ``trackers``, which are started here.
    """

    def __init__(
        self,
        engine: Engine,
        objects: ObjectStore,
        claim_id: UUID,
        job_id: UUID,
        trackers: Sequence[GeneralTracker] = (),
    ) -> None:
        self.lost = False
        """The job is not this claim's any more: nothing is written since then."""
        self._engine = engine
        self._objects = objects
        self._claim_id = claim_id
        self._job_id = job_id
        self._trackers = Trackers(trackers)
        self._curves: Curves | None = None
        self._waiting: list[_Noted] = []
        self._every_s = WRITE_EVERY_S
        self._due_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def waiting(self) -> int:
        """How many events are not written yet."""
        return len(self._waiting)

    def note(self, name: str, data: Mapping[str, Any]) -> None:
        """Tell that something has happened; what ``data`` holds is said at `EventName`.

        Events are written about once a second, with this or a later call, and at every checkpoint.
        """
        if self.lost:
            return
        now_s = time.monotonic()
        if len(self._waiting) >= MOST_WAITING:
            self._waiting = _thinned(self._waiting)
        self._waiting.append(_Noted(name, dict(data), now_s))
        self._draw(name, data)
        if name == EventName.CHECKPOINT:
            self.flush()
        elif now_s >= self._due_s:
            self._write()

    def flush(self) -> None:
        """Write the events that wait, and store the curves."""
        self._write()
        if self._curves and not self.lost:
            try:
                self._curves.store()
            except ObjectStoreError as error:
                _log.warning("logs: the bucket does not answer, storing them later: %s", error)
            except OSError as error:
                self._give_curves_up(error)

    def close(self) -> None:
        """Flush, and end what is open; trackers have some seconds for what they still hold."""
        try:
            self.flush()
        finally:
            if self._curves:
                self._curves.close()
                self._curves = None
            self._trackers.finish()

    def _write(self) -> None:
        if self.lost or not self._waiting:
            return
        now_s = time.monotonic()
        events = [NewEvent(noted.name, noted.data, now_s - noted.at_s) for noted in self._waiting]
        try:
            held = job_events.add(self._engine, self._claim_id, self._job_id, events)
        except (DBAPIError, NoConnectionError) as error:
            if self._every_s == WRITE_EVERY_S:
                reason = getattr(error, "orig", error)
                _log.warning("events: the database does not answer, writing later: %s", reason)
            self._every_s = min(self._every_s * 2, WRITE_EVERY_AT_MOST_S)
        else:
            self.lost = not held
            self._waiting = []
            self._every_s = WRITE_EVERY_S
        self._due_s = time.monotonic() + self._every_s

    def _draw(self, name: str, data: Mapping[str, Any]) -> None:
        try:
            if name == EventName.STARTED and not self._curves:
                self._curves = Curves(self._objects, self._job_id, self._claim_id, data["step"])
            elif group := _CURVES.get(name):
                measured = {f"{group}/{key}": value for key, value in numbers(data).items()}
                self._trackers.log(data["step"], measured)
                if self._curves:
                    self._curves.add(data["step"], measured)
        except OSError as error:
            self._give_curves_up(error)

    def _give_curves_up(self, error: OSError) -> None:
        # A record that is cut off would make what follows it unreadable.
        _log.warning("logs: the disk takes no more, so the curves of this attempt end: %s", error)
        self._curves = None


def _thinned(waiting: Sequence[_Noted]) -> list[_Noted]:
    """Fewer of them: every other progress, since a coarse curve is better than one with a gap."""
    kept = [
        noted
        for place, noted in enumerate(waiting)
        if noted.name != EventName.PROGRESS or place % 2
    ]
    return kept if len(kept) < MOST_WAITING else kept[1:]
