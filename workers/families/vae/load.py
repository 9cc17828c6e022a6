"""From a diffusers directory to an ``AutoencoderKL`` on the device: safetensors only."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from jobs.registry.inspection import check_tree
from storage.models import ModelCard
from workers import memory, pretrained
from workers.family import Device

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclass
class Loaded:
    """An autoencoder on its device.

    Its latents have about ``mean`` and ``std``, (1, C, 1, 1) each; a picture's side is ``factor``
    times that of its latent.
    """

    autoencoder: Any
    mean: Tensor
    std: Tensor
    factor: int


def load(files: Path, card: ModelCard, device: Device) -> Loaded:
    """The autoencoder in ``files``, in the precision that the device decides.

    Raises:
        UnsafeModelError: see `jobs.registry.inspection`.
        ValueError: these are not an AutoencoderKL's files, or the card allows other sizes.
    """
    config = _check_files(files)
    check_tree(files)
    try:
        autoencoder, found = AutoencoderKL.from_pretrained(
            files,
            use_safetensors=True,
            local_files_only=True,
            dtype=pretrained.dtype_on(device),
            output_loading_info=True,
        )
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{files}: {WEIGHTS} does not fit {CONFIG}: {error}") from error
    if found["missing_keys"]:
        raise ValueError(f"{files}: {WEIGHTS} lacks {', '.join(sorted(found['missing_keys'])[:3])}")
    factor = 2 ** (len(autoencoder.config.block_out_channels) - 1)
    if card.size_multiple_px % factor:
        raise ValueError(
            f"model {card.name!r}: its sizes must be multiples of {factor} px, "
            f"not of {card.size_multiple_px}"
        )
    autoencoder.eval().requires_grad_(requires_grad=False).to(device.type)
    mean, std = _latent_statistics(config)
    return Loaded(autoencoder, mean.to(device.type), std.to(device.type), factor)


def unload(model: Loaded) -> None:
    """Drop the weights and give the device's cache back."""
    model.autoencoder = None
    memory.give_back()


def _check_files(files: Path) -> dict[str, Any]:
    for name in (CONFIG, WEIGHTS):
        if not (files / name).is_file():
            raise ValueError(f"{files} is no autoencoder's directory: it has no {name}")
    try:
        config = json.loads((files / CONFIG).read_bytes())
    except ValueError as error:
        raise ValueError(f"{files / CONFIG} is not JSON: {error}") from error
    class_name = config.get("_class_name") if isinstance(config, dict) else None
    if class_name != AutoencoderKL.__name__:
        raise ValueError(f"{files / CONFIG}: _class_name must be AutoencoderKL, not {class_name!r}")
    for channels in ("in_channels", "out_channels"):
        if config.get(channels, 3) != 3:  # noqa: PLR2004 (red, green and blue)
            raise ValueError(f"{files / CONFIG}: {channels} must be 3, not {config[channels]!r}")
    return dict(config)


def _latent_statistics(config: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the latents of pictures, by what the training measured.

    The configuration's terms are those of diffusers' pipelines: latents are scaled to unit variance
    (Rombach et al. 2022, arXiv:2112.10752, D.1), later models' also shifted or by channel.
    """
    scaling = config.get("scaling_factor") or 1
    mean = config.get("latents_mean") or [config.get("shift_factor") or 0]
    std = [value / scaling for value in config.get("latents_std") or [1]]
    return torch.tensor(mean).view(1, -1, 1, 1), torch.tensor(std).view(1, -1, 1, 1)
