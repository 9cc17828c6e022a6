"""Pipelines of diffusers that make pictures from text, and from pictures where they can."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from storage.models import ModelCard
from workers.families.diffusion import debug, generate, load
from workers.families.diffusion.load import Loaded
from workers.family import Context, Device, Item, JobError, Output


class Diffusion:
    """The `workers.family.Family` of diffusion models, which `workers.family.Compiles`."""

    tolerance = 1 / 255
    pads = True

    def debug(self, folder: Path) -> None:
        """See `debug.build`."""
        debug.build(folder)

    def load(self, files: Path, card: ModelCard, device: Device) -> Loaded:
        """See `load.load`."""
        return load.load(files, card, device)

    def max_batch(self, model: Loaded) -> int:
        """See `capabilities.CAPABILITIES`."""
        return model.capabilities.max_batch

    def generate(
        self, model: Loaded, items: Sequence[Item], context: Context
    ) -> Iterator[tuple[int, list[Output] | JobError]]:
        """See `generate.generate`."""
        return generate.generate(model, items, context)

    def warm(self, model: Loaded, items: Sequence[Item]) -> None:
        """See `generate.warm`."""
        generate.warm(model, items)

    def unload(self, model: Loaded) -> None:
        """See `load.unload`."""
        load.unload(model)
