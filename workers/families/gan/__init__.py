"""Generative adversarial networks: small pictures at once, each scored by the discriminator."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from storage.models import ModelCard
from workers.families.gan import debug, generate, load
from workers.families.gan.load import Loaded
from workers.family import Context, Device, Item, JobError, Output


class Gan:
    """The `workers.family.Family` of GANs."""

    tolerance = 1 / 255
    pads = False

    def debug(self, folder: Path) -> None:
        """See `debug.build`."""
        debug.build(folder)

    def load(self, files: Path, card: ModelCard, device: Device) -> Loaded:
        """See `load.load`."""
        return load.load(files, card, device)

    def max_batch(self, model: Loaded) -> int:  # noqa: ARG002 (the same for all)
        """See `generate.ROWS`."""
        return generate.ROWS

    def generate(
        self, model: Loaded, items: Sequence[Item], context: Context
    ) -> Iterator[tuple[int, list[Output] | JobError]]:
        """See `generate.generate`."""
        return generate.generate(model, items, context)

    def unload(self, model: Loaded) -> None:
        """See `load.unload`."""
        load.unload(model)
