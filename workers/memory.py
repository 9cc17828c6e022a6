"""The device's memory: given back where it can be, and what it has room for."""

import gc
import logging

import torch
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from storage import batch_sizes
from workers.family import Device

_log = logging.getLogger(__name__)


def give_back() -> None:
    """Return what nobody uses to the device. Whatever still refers to a tensor keeps it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Room:
    """How many items the device has room for in a call of the batch key at hand.

    Learnt by running out of memory. What has worked then is kept in SQL, for other workers and
    later ones. What has not is forgotten: something else may have taken the memory for a while.
    """

    def __init__(self, engine: Engine, device: Device) -> None:
        self._engine = engine
        self._device = device
        self._batch_key = ""
        self._most: int | None = None
        self._is_read = True
        self._is_kept = True

    def turn_to(self, batch_key: str) -> None:
        """The calls that follow are of this key: what is known is read, once."""
        self._batch_key, self._most = batch_key, None
        self._is_read, self._is_kept = False, True

    def begin(self) -> None:
        """A batch begins: what did not work in the one before is forgotten."""
        if not self._is_kept:
            self.turn_to(self._batch_key)

    def at_most(self, size: int) -> int:
        """``size``, or less where there is no room for so many."""
        if not self._is_read:
            self._is_read = True
            try:
                self._most = batch_sizes.read(
                    self._engine, device=self._sort, batch_key=self._batch_key
                )
            except DBAPIError as error:
                _log.warning("could not look up the batch size: %s", error.orig)
        return size if self._most is None else min(size, self._most)

    def lower(self, size: int) -> None:
        """Try no more than ``size`` items from now on."""
        self._most, self._is_kept = self.at_most(size), False

    def worked(self) -> None:
        """A call went well: a size that is new is worth keeping."""
        if self._is_kept or self._most is None:
            return
        self._is_kept = True
        try:
            batch_sizes.lower(
                self._engine, device=self._sort, batch_key=self._batch_key, size=self._most
            )
        except DBAPIError as error:
            _log.warning("could not keep the batch size: %s", error.orig)

    @property
    def _sort(self) -> str:
        """Devices of one name have the same memory."""
        if self._device.type == "cuda":
            return str(torch.cuda.get_device_name())
        return self._device.type
