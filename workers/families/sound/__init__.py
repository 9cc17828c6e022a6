"""Text-to-audio pipelines of diffusers."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from storage.models import ModelCard
from workers.families.sound import debug, generate, load
from workers.families.sound.load import Loaded
from workers.family import Context, Device, Item, JobError, Output


class Sound:
    """The `workers.family.Family` of models for music and noises."""

    tolerance = 1 / 2**15  # one step of 16-bit PCM
    pads = False

    def debug(self, folder: Path) -> None:
        """See `debug.build`."""
        debug.build(folder)

    def load(self, files: Path, card: ModelCard, device: Device) -> Loaded:  # noqa: ARG002
        """See `load.load`."""
        return load.load(files, device)

    def max_batch(self, model: Loaded) -> int:
        """See `load.BATCHES`."""
        return model.max_batch

    def generate(
        self, model: Loaded, items: Sequence[Item], context: Context
    ) -> Iterator[tuple[int, list[Output] | JobError]]:
        """See `generate.generate`."""
        return generate.generate(model, items, context)

    def unload(self, model: Loaded) -> None:
        """See `load.unload`."""
        load.unload(model)
