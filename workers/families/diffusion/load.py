"""From a diffusers directory to a pipeline on the device: safetensors only, no foreign code."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.models import ModelCard
from workers import memory, pipelines, pretrained
from workers.families.diffusion.adapters import Adapters
from workers.families.diffusion.capabilities import CAPABILITIES, UNKNOWN, Capabilities
from workers.families.diffusion.siblings import Siblings
from workers.family import Device


@dataclass
class Loaded:
    """A pipeline on its device, with what goes with it."""

    card: ModelCard
    pipeline: Any
    capabilities: Capabilities
    siblings: Siblings
    adapters: Adapters


def load(files: Path, card: ModelCard, device: Device) -> Loaded:
    """The pipeline in ``files``, on the device, in the precision that the device decides.

    Raises:
        ValueError: see `pipelines.check_files`; or it makes no pictures from text.
    """
    pipeline = pipelines.load(files, pretrained.dtype_on(device))
    name = type(pipeline).__name__
    if "prompt" not in inspect.signature(pipeline.__call__).parameters:
        raise ValueError(f"{name} makes no pictures from text")
    pipeline.to(device.type)
    capabilities = CAPABILITIES.get(name, UNKNOWN)
    siblings = Siblings(pipeline, capabilities)
    return Loaded(card, pipeline, capabilities, siblings, Adapters(pipeline))


def unload(model: Loaded) -> None:
    """Drop the weights and give the device's cache back."""
    del model.pipeline, model.siblings, model.adapters
    memory.give_back()
