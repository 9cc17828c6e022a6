"""From a diffusers directory to a pipeline on the device: safetensors only, no foreign code."""

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import diffusers
import torch
import transformers

from storage.models import ModelCard
from workers import memory
from workers.family import Device

BATCHES: Mapping[str, int] = MappingProxyType(
    {
        "StableDiffusionPipeline": 64,
        "StableDiffusionXLPipeline": 32,
        "StableDiffusion3Pipeline": 32,
        "PixArtAlphaPipeline": 32,
        "PixArtSigmaPipeline": 32,
        "SanaPipeline": 32,
        "FluxPipeline": 16,
    }
)
"""Pipelines that take a list of prompts with a generator each. Any other runs one by one."""


@dataclass
class Loaded:
    """A pipeline on its device. ``arguments`` are the names that its call takes."""

    card: ModelCard
    pipeline: Any
    arguments: frozenset[str]
    max_batch: int


class UnsafeModelError(ValueError):
    """The directory holds code, or asks for code from outside."""


def check_files(files: Path) -> str:
    """The pipeline's class name, after making sure that loading it runs nobody's code but ours.

    Raises:
        UnsafeModelError: Python files, ``auto_map``, or components from other libraries.
        ValueError: not a diffusers directory.
    """
    index_file = files / "model_index.json"
    if not index_file.is_file():
        raise ValueError(f"{files} is not a diffusers directory: it has no model_index.json")
    code = sorted(str(path.relative_to(files)) for path in files.rglob("*.py"))
    if code:
        raise UnsafeModelError(f"{files} holds Python code, which is refused: {', '.join(code)}")
    for config in files.rglob("*.json"):
        if '"auto_map"' in config.read_text(encoding="utf-8"):
            raise UnsafeModelError(f"{config} asks for remote code by auto_map, which is refused")
    index: dict[str, Any] = json.loads(index_file.read_text(encoding="utf-8"))
    name = index.get("_class_name")
    if not isinstance(name, str) or not hasattr(diffusers, name):
        raise UnsafeModelError(f"{files}: pipeline class {name!r} is not one of diffusers' own")
    for component, value in index.items():
        if isinstance(value, list) and value[0] not in (None, "diffusers", "transformers"):
            raise UnsafeModelError(
                f"{files}: component {component!r} comes from {value[0]!r}, which is refused"
            )
    return name


def load(files: Path, card: ModelCard, device: Device) -> Loaded:
    """The pipeline in ``files``, on the device, in the precision that the device decides."""
    name = check_files(files)
    # Both print the words of a prompt that they cut off: personal data, in our log.
    diffusers.logging.set_verbosity_error()
    transformers.logging.set_verbosity_error()
    pipeline = getattr(diffusers, name).from_pretrained(
        files,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        dtype=torch.bfloat16 if device.type == "cuda" else torch.float32,
    )
    arguments = frozenset(inspect.signature(pipeline.__call__).parameters)
    if "prompt" not in arguments or "image" in arguments:
        raise ValueError(f"{name} is not a text-to-image pipeline")
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(device.type)
    return Loaded(card, pipeline, arguments, BATCHES.get(name, 1))


def unload(model: Loaded) -> None:
    """Drop the weights and give the device's cache back."""
    model.pipeline = None
    memory.give_back()
