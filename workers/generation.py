"""Calling the family: in the sizes that the model takes, stopped when it is of no more use."""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from workers import memory
from workers.family import Item, JobError, Output, StopRequestedError
from workers.memory import Room
from workers.pulse import Held
from workers.resident import Resident
from workers.sickness import MESSAGES, Sickness, sickness_of

_log = logging.getLogger(__name__)

MESSAGE_LENGTH = 500


class BatchContext:
    """Tells a family to stop: the worker ends, the lease is lost, or nobody wants the items."""

    def __init__(self, held: Held, stopping: Callable[[], bool]) -> None:
        self._held = held
        self._stopping = stopping
        self._items: Sequence[Item] = ()

    def wanted(self, items: Sequence[Item]) -> Sequence[Item]:
        """Those of ``items`` that have not been cancelled, which the next call is about."""
        cancelled = self._held.cancelled
        self._items = [item for item in items if item.job_id not in cancelled]
        return self._items

    def step(self, done: int, total: int) -> None:  # noqa: ARG002 (progress, for those who show it)
        """Raise `StopRequestedError` if going on is of no use."""
        nobody = all(item.job_id in self._held.cancelled for item in self._items)
        if self._stopping() or self._held.lost or nobody:
            raise StopRequestedError


def make(
    resident: Resident, items: Sequence[Item], context: BatchContext, room: Room
) -> Iterator[tuple[Item, list[Output] | JobError]]:
    """What became of each item, call by call.

    Items that were cancelled meanwhile are left out, and all that are not begun after a stop, or
    after the worker itself has fallen ill.
    """
    room.begin()
    parts = deque([items])
    while parts:
        part = parts.popleft()
        size = room.at_most(resident.family.max_batch(resident.model))
        if len(part) > size:
            parts.appendleft(part[size:])
            part = part[:size]
        wanted = context.wanted(part)
        if not wanted:
            continue
        try:
            context.step(0, 0)
            made = _call(resident, wanted, context)
        except StopRequestedError:
            _log.info("stopped between two steps")
            continue
        if not isinstance(made, JobError):
            room.worked()
            yield from made
            continue
        if made.code == Sickness.OUT_OF_MEMORY:
            memory.give_back()
            if len(wanted) > 1:
                half = (len(wanted) + 1) // 2
                _log.warning("no room for %d items: trying %d at most", len(wanted), half)
                room.lower(half)
                parts.appendleft(wanted)
                continue
        if made.code in (Sickness.DEVICE_ERROR, Sickness.DISK_FULL):
            yield from ((item, made) for item in wanted)
            return
        if len(wanted) == 1:
            yield wanted[0], made
        else:  # one of them may be at fault; its mates shall not suffer
            parts.extendleft([item] for item in reversed(wanted))


def _call(
    resident: Resident, items: Sequence[Item], context: BatchContext
) -> list[tuple[Item, list[Output] | JobError]] | JobError:
    """What became of each item, or of all of them where the call failed.

    The error itself ends here: its traceback would keep the failed call's tensors alive.
    """
    try:
        made = resident.family.generate(resident.model, items, context)
        return [(items[index], outputs) for index, outputs in made]
    except StopRequestedError:
        raise
    except Exception as error:  # noqa: BLE001 (whatever a model raises concerns this call only)
        sickness = sickness_of(error)
        if sickness is Sickness.OUT_OF_MEMORY:
            # As text: who keeps the record of a log must not keep the error.
            _log.warning("generating %d items ran out of memory: %s", len(items), str(error))
        else:
            _log.exception("generating %d items failed", len(items))
        if sickness:
            return JobError(sickness.value, MESSAGES[sickness], retry=True)
        message = f"{type(error).__name__}: {error}"[:MESSAGE_LENGTH]
        return JobError("generation_failed", message, retry=True)
