"""From a diffusers directory to an audio pipeline on the device."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from workers import memory, pipelines
from workers.family import Device

BATCHES: Mapping[str, int] = MappingProxyType({"StableAudioPipeline": 8})
"""Pipelines whose prompts do not touch each other in a call. Any other runs one by one.

(AudioLDM 2 pads prompts to the longest of the call, and its language model notices.)
"""

LENGTHS = ("audio_length_in_s", "audio_end_in_s")
"""How the calls of pipelines name the length of the sound, in seconds."""


@dataclass
class Loaded:
    """A pipeline on its device. ``length`` is one of `LENGTHS`."""

    pipeline: Any
    length: str
    sample_rate_hz: int
    max_batch: int


def load(files: Path, device: Device) -> Loaded:
    """The pipeline in ``files``, on the device, in fp32: bf16 has a noise floor that one hears.

    Raises:
        ValueError: it makes no sound from text, or needs programs that are not here.
    """
    pipeline = pipelines.load(files, torch.float32)
    name = type(pipeline).__name__
    arguments = frozenset(inspect.signature(pipeline.__call__).parameters)
    length = next((argument for argument in LENGTHS if argument in arguments), None)
    if length is None or not {"prompt", "negative_prompt"} <= arguments:
        raise ValueError(f"{name} is not a text-to-audio pipeline that is supported")
    source = pipeline.vocoder if hasattr(pipeline, "vocoder") else pipeline.vae
    pipeline.to(device.type)
    return Loaded(
        pipeline,
        length,
        sample_rate_hz=source.config.sampling_rate,
        max_batch=BATCHES.get(name, 1),
    )


def unload(model: Loaded) -> None:
    """Drop the weights and give the device's cache back."""
    model.pipeline = None
    memory.give_back()
