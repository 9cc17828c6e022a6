"""The model that is on the device, and the adapters that jobs want on top of it."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from jobs.kinds.values import AdapterUse
from jobs.registry.choice import has_ended
from storage import models
from storage.models import ModelCard
from storage.objects import ObjectStore
from workers.family import Adapter, Device, Family
from workers.files import files_of
from workers.registry import FAMILIES

_log = logging.getLogger(__name__)


@dataclass
class Resident:
    """A loaded model with the code that runs it."""

    card: ModelCard
    family: Family[Any]
    model: Any


class LicenceEndedError(Exception):
    """A model's licence has ended while its jobs waited."""


def _check_licence(card: ModelCard) -> None:
    if has_ended(card):
        raise LicenceEndedError(f"the licence of {card.name!r} ended on {card.licence_until}")


class Residency:
    """Holds one model at a time."""

    def __init__(self, engine: Engine, objects: ObjectStore, cache: Path, device: Device) -> None:
        self._engine = engine
        self._objects = objects
        self._cache = cache
        self._device = device
        self._resident: Resident | None = None
        self._adapters: dict[str, tuple[ModelCard, Path]] = {}

    def get(self, name: str) -> Resident:
        """The model registered as ``name``, loaded in place of another if need be.

        Raises:
            LicenceEndedError: its jobs must not be made any more.
            ValueError: the model itself is at fault: no other worker could load it either.
            Exception: whatever else the libraries raise.
        """
        if self._resident and self._resident.card.name == name:
            _check_licence(self._resident.card)
            return self._resident
        self.clear()
        with self._engine.begin() as connection:
            card = models.find(connection, name)
        if card is None or card.family not in FAMILIES:
            raise LookupError(f"model {name!r} is of no family that this worker has")
        _check_licence(card)
        started = time.monotonic()
        family = FAMILIES[card.family]
        model = family.load(files_of(card, self._cache, self._objects), card, self._device)
        self._resident = Resident(card, family, model)
        _log.info("loaded %s in %.1f s", card.identity, time.monotonic() - started)
        return self._resident

    def adapters(self, uses: Sequence[AdapterUse]) -> list[Adapter]:
        """The files of adapters for the model that is loaded; checked when others were in use.

        Raises:
            Exception: as `get` does.
        """
        if self._adapters.keys() != {use.name for use in uses}:
            self._adapters = {use.name: self._adapter(use.name) for use in uses}
        for card, _ in self._adapters.values():
            _check_licence(card)
        return [
            Adapter(card.identity, use.weight, files, card.licence, card.attribution)
            for use in uses
            for card, files in [self._adapters[use.name]]
        ]

    def _adapter(self, name: str) -> tuple[ModelCard, Path]:
        with self._engine.begin() as connection:
            card = models.find(connection, name)
        assert self._resident
        if card is None or card.base != self._resident.card.name:
            raise ValueError(f"{name!r} is no adapter for {self._resident.card.name!r}")
        return card, files_of(card, self._cache, self._objects)

    def clear(self) -> None:
        """Give the device's memory back."""
        if self._resident:
            self._resident.family.unload(self._resident.model)
            self._resident = None
            self._adapters = {}
