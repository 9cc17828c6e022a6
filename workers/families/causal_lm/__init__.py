"""Language models of transformers: those that go on with a text, and encoder-decoders."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from storage.models import ModelCard
from workers.families.causal_lm import debug, generate, load
from workers.families.causal_lm.load import Loaded
from workers.family import Context, Device, Item, JobError, Output


class CausalLM:
    """The `workers.family.Family` of language models."""

    tolerance = 0.0
    pads = False

    def debug(self, folder: Path) -> None:
        """See `debug.build`."""
        debug.build(folder)

    def load(self, files: Path, card: ModelCard, device: Device) -> Loaded:
        """See `load.load`."""
        return load.load(files, card, device)

    def max_batch(self, model: Loaded) -> int:  # noqa: ARG002 (one model takes as many as another)
        """See `load.MAX_BATCH`."""
        return load.MAX_BATCH

    def generate(
        self, model: Loaded, items: Sequence[Item], context: Context
    ) -> Iterator[tuple[int, list[Output] | JobError]]:
        """See `generate.generate`."""
        return generate.generate(model, items, context)

    def unload(self, model: Loaded) -> None:
        """See `load.unload`."""
        load.unload(model)
