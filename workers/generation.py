"""Calling the family: in the sizes that the model takes, stopped when it is of no more use."""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from workers import memory
from workers.family import Item, JobError, Output, StopRequestedError
from workers.pulse import Held
from workers.resident import Resident
from workers.room import Room
from workers.sickness import MESSAGES, Sickness, sickness_of

_log = logging.getLogger(__name__)

MESSAGE_LENGTH = 500
_UNKNOWN = "there is no such model, or adapter"

NEARLY = 0.75
"""How much of a batch's last call is done when the next batch is claimed: in time to be prepared,
but not so early that another worker, with nothing to do, might have begun it by then."""


class BatchContext:
    """Tells a family to stop: the worker ends, the lease is lost, or nobody wants the items."""

    def __init__(
        self,
        held: Held,
        stopping: Callable[[], bool],
        nearly_done: Callable[[], None] | None = None,
    ) -> None:
        self._held = held
        self._stopping = stopping
        self._nearly_done = nearly_done
        self._is_last = False
        self._items: Sequence[Item] = ()

    def wanted(self, items: Sequence[Item], *, is_last: bool = False) -> Sequence[Item]:
        """Those of ``items`` that have not been cancelled, which the next call is about."""
        self._is_last = is_last
        cancelled = self._held.cancelled
        self._items = [item for item in items if item.job_id not in cancelled]
        return self._items

    def step(self, done: int, total: int) -> None:
        """Raise `StopRequestedError` if going on is of no use."""
        if self._nearly_done and self._is_last and 0 < total * NEARLY <= done:
            self._nearly_done()
        nobody = all(item.job_id in self._held.cancelled for item in self._items)
        if self._stopping() or self._held.lost or nobody:
            raise StopRequestedError


def make(
    resident: Resident,
    items: Sequence[Item],
    context: BatchContext,
    room: Room,
    make_room: Callable[[], bool] = bool,
) -> Iterator[tuple[Item, list[Output] | JobError]]:
    """What became of each item, call by call.

    Those whose model or adapter is another tenant's, which no door lets pass, are refused. Where
    the family gains by it, a call is filled up to one of few sizes by repeating its last item;
    nobody hears of what comes of that. Items that were cancelled meanwhile are left out, and all
    that are not begun after a stop, or after the worker itself has fallen ill. Where memory runs
    out, first ``make_room`` is to unload other models, then calls become smaller.
    """
    own, refused = _by_owner(items, resident)
    yield from refused
    room.begin()
    parts: deque[Sequence[Item]] = deque([own])
    while parts:
        wanted, size = _take(parts, resident, context, room)
        if not wanted:
            continue
        try:
            context.step(0, 0)
            room.begin_call(size)
            made = _call(resident, wanted, size, context)
        except StopRequestedError:
            _log.info("stopped between two steps")
            continue
        if not isinstance(made, JobError):
            room.worked()
            yield from made
            continue
        if made.code == Sickness.OUT_OF_MEMORY:
            memory.give_back()
            if make_room() or _smaller(room, size):
                parts.appendleft(wanted)
                continue
        if made.code in (Sickness.DEVICE_ERROR, Sickness.DISK_FULL):
            yield from ((item, made) for item in wanted)
            return
        if len(wanted) == 1:
            yield wanted[0], made
        else:  # one of them may be at fault; its mates shall not suffer
            parts.extendleft([item] for item in reversed(wanted))


def _by_owner(
    items: Sequence[Item], resident: Resident
) -> tuple[list[Item], list[tuple[Item, JobError]]]:
    """The items whose model and adapters are everybody's or their tenant's own, and the others."""
    own: list[Item] = []
    refused: list[tuple[Item, JobError]] = []
    for item in items:
        owners = {resident.card.tenant_id, *(adapter.tenant_id for adapter in item.adapters)}
        if owners <= {None, item.tenant_id}:
            own.append(item)
        else:
            refused.append((item, JobError("unknown_model", _UNKNOWN, retry=False)))
    return own, refused


def _smaller(room: Room, size: int) -> bool:
    """Have calls become half as large; False: they cannot."""
    if size == 1:
        return False
    half = (size + 1) // 2
    _log.warning("no room for %d items: trying %d at most", size, half)
    room.lower(half)
    return True


def _take(
    parts: deque[Sequence[Item]], resident: Resident, context: BatchContext, room: Room
) -> tuple[Sequence[Item], int]:
    """The items of the next call, taken from ``parts``, and how many it has with its padding."""
    part = context.wanted(parts.popleft())
    if not part:
        return part, 0
    family = resident.family
    size = room.next_call(len(part), family.max_batch(resident.model), pads=family.pads)
    if len(part) > size:
        parts.appendleft(part[size:])
    wanted = context.wanted(part[:size], is_last=not parts)
    return wanted, size if family.pads else len(wanted)


def _call(
    resident: Resident, items: Sequence[Item], size: int, context: BatchContext
) -> list[tuple[Item, list[Output] | JobError]] | JobError:
    """What became of each item, or of all of them where the call failed.

    The call has ``size`` items; what these are too few for is padding. The error itself ends here:
    its traceback would keep the failed call's tensors alive.
    """
    try:
        padded = [*items, *[items[-1]] * (size - len(items))]
        made = resident.family.generate(resident.model, padded, context)
        return [(items[index], outputs) for index, outputs in made if index < len(items)]
    except StopRequestedError:
        raise
    except Exception as error:  # noqa: BLE001 (whatever a model raises concerns this call only)
        sickness = sickness_of(error)
        if sickness is Sickness.OUT_OF_MEMORY:
            # As text: who keeps the record of a log must not keep the error.
            _log.warning("generating %d items ran out of memory: %s", size, str(error))
        else:
            _log.exception("generating %d items failed", size)
        if sickness:
            return JobError(sickness.value, MESSAGES[sickness], retry=True)
        message = f"{type(error).__name__}: {error}"[:MESSAGE_LENGTH]
        return JobError("generation_failed", message, retry=True)
