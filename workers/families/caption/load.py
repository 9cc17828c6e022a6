"""From a directory of transformers to a captioner on the device: safetensors only."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoProcessor, BlipForConditionalGeneration

from jobs.registry.inspection import check_tree
from storage.models import ModelCard
from workers import memory, pretrained
from workers.family import Device
from workers.weights import whole

TYPE = "blip"
"""Models that chat about pictures want other prompts each, and would be families of their own."""


@dataclass
class Loaded:
    """A captioner, and what makes its inputs of pictures and words of its tokens."""

    model: Any
    processor: Any


def load(files: Path, card: ModelCard, device: Device) -> Loaded:
    """The model in ``files``, on the device, in the precision that the device decides.

    Raises:
        ValueError: unsafe, not whole, or no BLIP captioner.
    """
    if not (files / "config.json").is_file():
        raise ValueError(f"{files} is not a transformers directory: it has no config.json")
    check_tree(files)
    pretrained.quieten()
    safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    found = AutoConfig.from_pretrained(files, **safe).model_type
    if found != TYPE:
        raise ValueError(f"model {card.name!r} is of type {found}; captions are written by {TYPE}")
    loaded = BlipForConditionalGeneration.from_pretrained(
        files,
        use_safetensors=True,
        output_loading_info=True,
        dtype=pretrained.dtype_on(device),
        **safe,
    )
    model = whole(loaded, files)
    model.eval().requires_grad_(requires_grad=False).to(device.type)
    return Loaded(model, AutoProcessor.from_pretrained(files, **safe))


def unload(model: Loaded) -> None:
    """Drop the weights and give the device's cache back."""
    model.model = None
    memory.give_back()
