"""How many items a call and a claim have: as was measured, and as there is room for."""

import logging
import threading
import time
from copy import copy
from dataclasses import dataclass
from math import ceil

import torch
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from storage import batch_sizes
from storage.batch_sizes import Known, Measured
from workers import batching, memory
from workers.calibration import Calibration
from workers.compiled import Asks
from workers.family import Device

_log = logging.getLogger(__name__)

CLAIM_S = 1.0
"""A claim is for one call, or for as many as take this long: each costs two transactions."""
SHORT_S = 2.0
"""Of a call that is to be compiled: until it takes this long it is not worth being smaller."""
KEYS_KEPT = 1000
"""Of so many batch keys, the latest, it is remembered what was measured."""


@dataclass
class _Call:
    """A call that has begun; ``used`` None: its memory is not looked at."""

    size: int
    started_s: float
    used: int | None
    eager: int


class Room:
    """The sizes of calls and claims on one device, learnt from the calls themselves.

    Running out of memory sets a limit. One that has worked then is kept in SQL, for other workers
    and later ones. What has not is forgotten: something else may have taken the memory for a
    while. The rates of the sizes are kept as well, see `workers.calibration`.
    """

    def __init__(self, engine: Engine, device: Device, most: int) -> None:
        self._engine = engine
        self._device = device
        self._most = most
        self._known: dict[str, Calibration] = {}
        self._adding = threading.Lock()  # claims are prepared in another thread
        self._batch_key = ""
        self._is_read = True
        self._is_kept = True
        self._call = _Call(0, 0.0, None, 0)

    def turn_to(self, batch_key: str) -> None:
        """The calls that follow are of this key: what others know of it is read, once."""
        self._batch_key = batch_key
        self._is_read, self._is_kept = False, True

    def begin(self) -> None:
        """A batch begins: a limit that did not work in the one before is forgotten."""
        if not self._is_kept:
            self.turn_to(self._batch_key)

    def claim_size(self, batch_key: str) -> int:
        """How many jobs of this key to claim at once, from whichever thread."""
        known = self._known.get(batch_key) or self._add(batch_key)
        if batch_key == self._batch_key and not self._is_kept:
            known = copy(known)
            known.limit = None  # by then it is forgotten
        wanted, one_call_s = known.jobs_wanted, known.expected_s(known.size)
        if known.trying is None and one_call_s:
            wanted *= max(ceil(CLAIM_S / one_call_s), 1)
        return min(wanted, self._most)

    def known_size(self, batch_key: str) -> int | None:
        """The size of call that is best for a key; None: it is to be measured."""
        known = self._known.get(batch_key) or self._add(batch_key)
        return None if known.trying is not None else known.size

    def next_call(self, count: int, max_batch: int, *, pads: bool) -> int:
        """How large the next call is with ``count`` items left; above that, the rest is padding."""
        known = self._at_hand()
        known.most = min(self._most, max_batch)
        trying = known.trying
        if trying is not None and count >= trying:
            return trying
        compiles = self._device.compiler is not None
        return batching.call_size(count, known.size, known.expected, pads=pads, coarse=compiles)

    def begin_call(self, size: int) -> None:
        """A call of so many items, padding included, begins."""
        known = self._at_hand()
        is_tried = known.trying == size
        used = memory.watch_peak(self._device) if is_tried else None
        compiler = self._device.compiler
        if compiler:
            # What is only tried is not worth compiling, and what most calls will be is at once.
            settled: Asks = "at once" if size == known.size else "often"
            compiler.asks = "never" if known.trying is not None else settled
        eager = compiler.counters["eager_fallbacks"] if compiler else 0
        self._call = _Call(size, time.perf_counter(), used, eager)

    def worked(self) -> None:
        """The call went well: what it tells is noted, and what is new is kept."""
        took_s = time.perf_counter() - self._call.started_s
        used = self._call.used
        peak = None if used is None else memory.peak_bytes(self._device)
        known = self._at_hand()
        compiler = self._device.compiler
        if compiler and compiler.counters["eager_fallbacks"] == self._call.eager:
            known.note_compiled(self._call.size, took_s)
        known.note(self._call.size, took_s, used, peak)
        if not self._is_kept and known.limit is not None:
            self._is_kept = True
            self._keep_limit(known.limit)
        if known.settle():
            rates = ", ".join(f"{size}: {rate:.3g}/s" for size, rate in sorted(known.rates.items()))
            _log.info("calls of %d are best for %s (%s)", known.size, self._batch_key, rates)
            self._keep_measured(known)

    def lower(self, size: int) -> None:
        """Try no more than ``size`` items from now on."""
        self._at_hand().limit = size
        self._is_kept = False

    def _at_hand(self) -> Calibration:
        if self._is_read:
            return self._known.get(self._batch_key) or self._set(self._batch_key, self._new())
        self._is_read = True
        return self._add(self._batch_key)

    def _add(self, batch_key: str) -> Calibration:
        """What is known of a key, here and in SQL."""
        known = self._known.get(batch_key) or self._new()
        try:
            kept = batch_sizes.read(self._engine, device=sort_of(self._device), batch_key=batch_key)
        except DBAPIError as error:
            _log.warning("could not look up the batch size: %s", error.orig)
            kept = Known(None, None)
        known.limit = kept.limit
        measured = kept.measured
        if measured and measured.torch == torch.__version__:
            known.adopt(measured.rates)
        return self._set(batch_key, known)

    def _set(self, batch_key: str, known: Calibration) -> Calibration:
        with self._adding:
            self._known[batch_key] = known
            if len(self._known) > KEYS_KEPT:
                del self._known[next(iter(self._known))]
        return known

    def _new(self) -> Calibration:
        return Calibration(
            self._most,
            lambda: memory.available_bytes(self._device),
            SHORT_S if self._device.compiler else 0.0,
        )

    def _keep_limit(self, size: int) -> None:
        try:
            batch_sizes.lower(
                self._engine, device=sort_of(self._device), batch_key=self._batch_key, size=size
            )
        except DBAPIError as error:
            _log.warning("could not keep the batch size: %s", error.orig)

    def _keep_measured(self, known: Calibration) -> None:
        peak = known.peaks.get(known.size)
        measured = Measured(known.rates, peak, str(torch.__version__))
        try:
            batch_sizes.keep(
                self._engine,
                device=sort_of(self._device),
                batch_key=self._batch_key,
                measured=measured,
            )
        except DBAPIError as error:
            _log.warning("could not keep the rates: %s", error.orig)


def sort_of(device: Device) -> str:
    """Devices of one sort have the same memory, and are as fast in the same precision."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name()} {device.dtype}"
    return f"{device.type} x{torch.get_num_threads()} {device.dtype}"
