"""The models that are on the device, and the adapters that jobs want on top of them."""

import logging
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sqlalchemy import Engine

from jobs.kinds.values import BANK_DETAIL, AdapterUse
from jobs.registry.choice import has_ended
from storage import models
from storage.models import ModelCard
from storage.objects import ObjectStore
from workers import footprint, memory
from workers.family import Adapter, Device, Family
from workers.files import files_of
from workers.registry import FAMILIES
from workers.report import Report
from workers.sickness import Sickness, sickness_of

_log = logging.getLogger(__name__)

BUDGET: Mapping[str, float] = MappingProxyType({"cpu": 0.5, "cuda": 0.6})
"""The share of a worker's memory that models may take, where no setting says how much: the rest
is to compute in."""


@dataclass
class Resident:
    """A loaded model with the code that runs it, and the adapters that are in use on it."""

    card: ModelCard
    family: Family[Any]
    model: Any
    size_bytes: int = 0
    adapters: dict[str, tuple[ModelCard, Path]] = field(default_factory=dict)


class LicenceEndedError(Exception):
    """A model's licence has ended while its jobs waited."""


def _check_licence(card: ModelCard) -> None:
    if has_ended(card):
        raise LicenceEndedError(f"the licence of {card.name!r} ended on {card.licence_until}")


class Residency:
    """Keeps the models used last loaded, as many as ``budget_bytes`` have room for.

    Without a budget it is `BUDGET` of what this worker may have. The budget is for models only, as
    they are when they are loaded: where computing runs out of memory, see `make_room`.
    """

    def __init__(
        self,
        engine: Engine,
        objects: ObjectStore,
        cache: Path,
        device: Device,
        *,
        budget_bytes: int | None = None,
        report: Report | None = None,
    ) -> None:
        self._engine = engine
        self._objects = objects
        self._cache = cache
        self._device = device
        self._given_budget_bytes = budget_bytes
        self._report = report or Report()
        self._residents: OrderedDict[str, Resident] = OrderedDict()  # by last use
        self._known_bytes: dict[str, int] = {}
        """What models have taken before, by identity."""

    @property
    def names(self) -> list[str]:
        """The models that are loaded, the last used first."""
        return list(reversed(self._residents))

    def get(self, name: str) -> Resident:
        """The model registered as ``name``, loaded if need be: others make room for it.

        Raises:
            LicenceEndedError: its jobs must not be made any more.
            ValueError: the model itself is at fault: no other worker could load it either.
            Exception: whatever else the libraries raise.
        """
        resident = self._residents.get(name)
        if resident is None:
            resident = self._load(name)
        _check_licence(resident.card)
        self._residents.move_to_end(name)
        self._note()
        return resident

    def adapters(self, uses: Sequence[AdapterUse]) -> list[Adapter]:
        """The files of adapters for the model used last; checked once while it is loaded.

        Raises:
            Exception: as `get` does.
        """
        resident = self._residents[self.names[0]]
        given = []
        for use in uses:
            if use.name not in resident.adapters:
                resident.adapters[use.name] = self._adapter(resident, use.name)
            card, files = resident.adapters[use.name]
            _check_licence(card)
            given.append(
                Adapter(
                    card.identity,
                    use.weight,
                    files,
                    card.licence,
                    card.attribution,
                    bank=bool(card.details.get(BANK_DETAIL)),
                    tenant_id=card.tenant_id,
                )
            )
        return given

    def make_room(self) -> bool:
        """Unload all but the model used last, whose call ran out of memory; False: it is alone."""
        others = self.names[1:]
        for name in reversed(others):
            self._unload(name, "the one at work needs its memory")
        return bool(others)

    def clear(self) -> None:
        """Give the device's memory back."""
        for name in reversed(self.names):
            self._unload(name, "all are")

    def _load(self, name: str) -> Resident:
        with self._engine.begin() as connection:
            card = models.find(connection, name)
        if card is None or card.family not in FAMILIES:
            raise LookupError(f"model {name!r} is of no family that this worker has")
        _check_licence(card)
        started = time.monotonic()
        files = files_of(card, self._cache, self._objects)
        self._evict(self._known_bytes.get(card.identity) or footprint.of_files(files))
        resident = self._fitted(card, files)
        self._known_bytes[card.identity] = resident.size_bytes
        self._evict(resident.size_bytes)
        self._residents[name] = resident
        took_s, size_gb = time.monotonic() - started, resident.size_bytes / 1e9
        _log.info("loaded %s in %.1f s: %.2f GB", card.identity, took_s, size_gb)
        if resident.size_bytes > self._budget_bytes:
            _log.warning(
                "%s takes %.2f GB, more than the %.2f GB that models may have together: it stays "
                "alone (PRESSWORK_MODEL_MEMORY_GB)",
                card.identity,
                size_gb,
                self._budget_bytes / 1e9,
            )
        return resident

    def _fitted(self, card: ModelCard, files: Path) -> Resident:
        """The model, loaded in place of all others where memory runs out beside them."""
        try:
            return self._loaded(card, files)
        except Exception as error:
            if not self._residents or sickness_of(error) is not Sickness.OUT_OF_MEMORY:
                raise
            _log.warning("no memory to load %s beside %s", card.identity, ", ".join(self.names))
        # Only now: the error's traceback has kept what was loaded.
        self.clear()
        return self._loaded(card, files)

    def _loaded(self, card: ModelCard, files: Path) -> Resident:
        family = FAMILIES[card.family]
        before = memory.allocated_bytes(self._device)
        model = family.load(files, card, self._device)
        size = memory.allocated_bytes(self._device) - before
        if self._device.type == "cpu":
            size = footprint.of_tensors(model)
        # What has no tensors keeps its weights elsewhere, as ONNX Runtime does.
        return Resident(card, family, model, size or footprint.of_files(files))

    def _evict(self, size_bytes: int) -> None:
        """Unload what was not used for longest until so many bytes more are within the budget."""
        while self._residents and size_bytes + self._size_bytes > self._budget_bytes:
            self._unload(next(iter(self._residents)), "another model needs its memory")

    def _unload(self, name: str, why: str) -> None:
        resident = self._residents.pop(name)
        resident.family.unload(resident.model)  # which gives the memory back
        resident.model = None
        self._note()
        _log.info("unloaded %s: %s", resident.card.identity, why)

    def _note(self) -> None:
        self._report.note_models(self.names)
        self._report.note_memory(
            memory.used_bytes(self._device), memory.capacity_bytes(self._device)
        )

    @property
    def _size_bytes(self) -> int:
        return sum(resident.size_bytes for resident in self._residents.values())

    @cached_property
    def _budget_bytes(self) -> int:
        if self._given_budget_bytes is not None:
            return self._given_budget_bytes
        return int(memory.capacity_bytes(self._device) * BUDGET[self._device.type])

    def _adapter(self, resident: Resident, name: str) -> tuple[ModelCard, Path]:
        with self._engine.begin() as connection:
            card = models.find(connection, name)
        if card is None or card.base != resident.card.name:
            raise ValueError(f"{name!r} is no adapter for {resident.card.name!r}")
        return card, files_of(card, self._cache, self._objects)
