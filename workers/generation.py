"""Calling the family: in the sizes that the model takes, stopped when it is of no more use."""

import logging
from collections.abc import Callable, Iterator, Sequence

from workers.family import Item, JobError, Output, StopRequestedError
from workers.pulse import Held
from workers.resident import Resident

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
    resident: Resident, items: Sequence[Item], context: BatchContext
) -> Iterator[tuple[Item, list[Output] | JobError]]:
    """What became of each item, call by call.

    Items that were cancelled meanwhile are left out, and all that are not begun after a stop.
    """
    size = resident.family.max_batch(resident.model)
    for start in range(0, len(items), size):
        try:
            yield from _call(resident, items[start : start + size], context)
        except StopRequestedError:
            _log.info("stopped between two steps")


def _call(
    resident: Resident, items: Sequence[Item], context: BatchContext
) -> Iterator[tuple[Item, list[Output] | JobError]]:
    wanted = context.wanted(items)
    if not wanted:
        return
    context.step(0, 0)
    try:
        made = list(resident.family.generate(resident.model, wanted, context))
    except StopRequestedError:
        raise
    except Exception as error:  # noqa: BLE001 (whatever a model raises concerns this call only)
        _log.exception("generating %d items failed", len(wanted))
        message = f"{type(error).__name__}: {error}"[:MESSAGE_LENGTH]
    else:
        yield from ((wanted[index], outputs) for index, outputs in made)
        return
    # Outside of the except block, whose traceback keeps the failed call's tensors alive.
    if len(wanted) == 1:
        yield wanted[0], JobError("generation_failed", message, retry=True)
        return
    for item in wanted:  # one of them may be at fault; its mates shall not suffer
        yield from _call(resident, [item], context)
