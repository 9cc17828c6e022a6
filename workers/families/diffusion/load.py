"""From a diffusers directory to a pipeline on the device: safetensors only, no foreign code."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.models import ModelCard
from workers import memory, pipelines, pretrained
from workers.compiled import Compiler
from workers.families.diffusion.capabilities import CAPABILITIES, UNKNOWN, Capabilities
from workers.families.diffusion.denoiser import Denoiser
from workers.families.diffusion.embeddings import Embeddings
from workers.families.diffusion.mixing import Mixing
from workers.families.diffusion.siblings import Siblings
from workers.family import Device

DECODES_BEFORE = 4
"""How many batches of a size are decoded eager before the decoder is compiled for it."""


@dataclass
class Loaded:
    """A pipeline on its device, with what goes with it."""

    card: ModelCard
    pipeline: Any
    capabilities: Capabilities
    siblings: Siblings
    denoiser: Denoiser
    mixing: Mixing
    embeddings: Embeddings


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
    denoiser = Denoiser(pipeline, device.compiler, capabilities.compiles)
    if device.compiler and capabilities.compiles != "eager":
        _compile_decoder(pipeline, device.compiler)
    mixing = Mixing(pipeline, denoiser, capabilities)
    return Loaded(
        card, pipeline, capabilities, siblings, denoiser, mixing, Embeddings(capabilities)
    )


def _compile_decoder(pipeline: Any, compiler: Compiler) -> None:
    """Have the VAE's decoder compiled: it runs once a picture, on many more pixels."""
    vae = pipeline.components.get("vae")
    decoder = getattr(vae, "decoder", None)
    if decoder is not None:
        name = f"the decoder of {type(vae).__name__}"
        vae.decoder = compiler.wrap(decoder, "whole", name, after=DECODES_BEFORE)


def unload(model: Loaded) -> None:
    """Drop the weights and give the device's cache back."""
    del model.pipeline, model.siblings, model.denoiser, model.mixing, model.embeddings
    memory.give_back()
