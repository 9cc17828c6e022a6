"""What an adapter's file does to a denoiser, as diffusers and PEFT understand it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer

from workers.families.diffusion.adapters import load, unload
from workers.families.diffusion.denoiser import Denoiser, sharing
from workers.family import Adapter

NAME = "presswork"
"""The adapter's name on the layers."""


class NotPlainError(ValueError):
    """The adapter is more than a LoRA of the denoiser."""


@dataclass(frozen=True)
class Read:
    """The layers of a denoiser that has this adapter alone, by their names in one without."""

    layers: Mapping[str, Any]
    config: Any

    @property
    def rank(self) -> int:
        """The largest."""
        return max(int(layer.r[NAME]) for layer in self.layers.values())


def read(pipeline: Any, denoiser: Denoiser, adapter: Adapter) -> Read:
    """The adapter, on a denoiser that nobody else has.

    Raises:
        AdapterDoesNotFitError: the model has no place for it.
        NotPlainError: it is a DoRA or a LoKr, or changes a text encoder as well.
    """
    module: Any = sharing(denoiser.own)
    with denoiser.used(pipeline, module):
        load(pipeline, adapter, NAME)
        on = pipeline.get_list_adapters()
        others = [part for part in sorted(on) if NAME in on[part] and part != denoiser.name]
        if others:
            unload(pipeline, NAME)
            raise NotPlainError(f"{adapter.identity} changes {', '.join(others)}")
    tuners = {
        name: layer for name, layer in module.named_modules() if isinstance(layer, BaseTunerLayer)
    }
    for name, layer in tuners.items():
        if not isinstance(layer, LoraLayer) or layer.use_dora.get(NAME):
            raise NotPlainError(f"{adapter.identity}: at {name} it is more than a LoRA")
    return Read(tuners, module.peft_config[NAME])


def sort_of(name: str) -> str:
    """A layer's name in its block: ``blocks.1.attn1.to_out.0`` is an ``attn1.to_out.0``."""
    return re.sub(r"^.*\.\d+\.(?=\D)", "", name)
