"""Films of pictures in motion, which need no model."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from storage.models import ModelCard
from workers.families.slideshow import debug, generate, load
from workers.families.slideshow.load import Loaded
from workers.family import Context, Device, Item, JobError, Output


class Slideshow:
    """The `workers.family.Family` of slideshows."""

    tolerance = 0.0
    pads = False

    def debug(self, folder: Path) -> None:
        """See `debug.build`."""
        debug.build(folder)

    def load(self, files: Path, card: ModelCard, device: Device) -> Loaded:  # noqa: ARG002
        """See `load.load`; whatever the device, the work is the CPU's."""
        return load.load(files, card)

    def max_batch(self, model: Loaded) -> int:  # noqa: ARG002
        """One by one: there is nothing that films could share."""
        return 1

    def generate(
        self,
        model: Loaded,  # noqa: ARG002
        items: Sequence[Item],
        context: Context,
    ) -> Iterator[tuple[int, list[Output] | JobError]]:
        """See `generate.generate`."""
        return generate.generate(items, context)

    def unload(self, model: Loaded) -> None:
        """Nothing is held."""
