"""The model that is on the device."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from storage import models
from storage.models import ModelCard
from workers.family import Device, Family
from workers.files import files_of
from workers.registry import FAMILIES

_log = logging.getLogger(__name__)


@dataclass
class Resident:
    """A loaded model with the code that runs it."""

    card: ModelCard
    family: Family[Any]
    model: Any


class Residency:
    """Holds one model at a time."""

    def __init__(self, engine: Engine, cache: Path, device: Device) -> None:
        self._engine = engine
        self._cache = cache
        self._device = device
        self._resident: Resident | None = None

    def get(self, name: str) -> Resident:
        """The model registered as ``name``, loaded in place of another if need be.

        Raises:
            ValueError: the model itself is at fault: no other worker could load it either.
            Exception: whatever else the libraries raise.
        """
        if self._resident and self._resident.card.name == name:
            return self._resident
        self.clear()
        with self._engine.begin() as connection:
            card = models.find(connection, name)
        if card is None or card.family not in FAMILIES:
            raise ValueError(f"model {name!r} is of no family that this worker has")
        started = time.monotonic()
        family = FAMILIES[card.family]
        model = family.load(files_of(card, self._cache), card, self._device)
        self._resident = Resident(card, family, model)
        _log.info("loaded %s in %.1f s", card.identity, time.monotonic() - started)
        return self._resident

    def clear(self) -> None:
        """Give the device's memory back."""
        if self._resident:
            self._resident.family.unload(self._resident.model)
            self._resident = None
