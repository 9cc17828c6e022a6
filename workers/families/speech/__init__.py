"""Text to speech: the voices of hibari, and VITS through transformers."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from storage.models import ModelCard
from workers.families.speech import debug, generate, load
from workers.families.speech.load import Loaded
from workers.family import Context, Device, Item, JobError, Output


class Speech:
    """The `workers.family.Family` of models that speak."""

    tolerance = 0.0
    pads = False

    def debug(self, folder: Path) -> None:
        """See `debug.build`."""
        debug.build(folder)

    def load(self, files: Path, card: ModelCard, device: Device) -> Loaded:  # noqa: ARG002
        """See `load.load`."""
        return load.load(files, card)

    def max_batch(self, model: Loaded) -> int:  # noqa: ARG002
        """One by one: both engines draw noise as they go, and none can take it from outside."""
        return 1

    def generate(
        self, model: Loaded, items: Sequence[Item], context: Context
    ) -> Iterator[tuple[int, list[Output] | JobError]]:
        """See `generate.generate`."""
        return generate.generate(model, items, context)

    def unload(self, model: Loaded) -> None:
        """See `load.unload`."""
        load.unload(model)
