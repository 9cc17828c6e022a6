"""Captions of pictures, by BLIP models of transformers."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from storage.models import ModelCard
from workers.families.caption import debug, generate, load
from workers.families.caption.load import Loaded
from workers.family import Context, Device, Item, JobError, Output


class Caption:
    """The `workers.family.Family` of models that describe pictures."""

    tolerance = 0.0
    pads = False

    def debug(self, folder: Path) -> None:
        """See `debug.build`."""
        debug.build(folder)

    def load(self, files: Path, card: ModelCard, device: Device) -> Loaded:
        """See `load.load`."""
        return load.load(files, card, device)

    def max_batch(self, model: Loaded) -> int:  # noqa: ARG002 (the same for all)
        """See `generate.MAX_BATCH`."""
        return generate.MAX_BATCH

    def generate(
        self, model: Loaded, items: Sequence[Item], context: Context
    ) -> Iterator[tuple[int, list[Output] | JobError]]:
        """See `generate.generate`."""
        return generate.generate(model, items, context)

    def unload(self, model: Loaded) -> None:
        """See `load.unload`."""
        load.unload(model)
