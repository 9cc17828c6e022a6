"""From a directory to both networks on the device: safetensors and a checked configuration."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from jobs.kinds.gan import GanDetails
from jobs.kinds.values import read_details
from jobs.problems import from_validation
from storage.models import ModelCard
from workers import memory
from workers.families.gan.model import Discriminator, GanConfig, Generator
from workers.family import Device

CONFIG = "config.json"
GENERATOR = "generator.safetensors"
DISCRIMINATOR = "discriminator.safetensors"


@dataclass
class Loaded:
    """Both networks on their device, in evaluation mode."""

    config: GanConfig
    generator: Any
    discriminator: Any
    device: Device


def load(files: Path, card: ModelCard, device: Device) -> Loaded:
    """The GAN in ``files``.

    In fp32 on every device: the networks are small, and scores are compared with `min_score`.

    Raises:
        ValueError: a file is missing or damaged, or the card has other labels than the model.
    """
    config = _config(files / CONFIG)
    labels = read_details(card, GanDetails).labels
    if labels and labels != config.class_names:
        raise ValueError(
            f"model {card.name!r}: its card's labels are not the class_names of {files / CONFIG}"
        )
    generator, discriminator = Generator(config), Discriminator(config)
    for network, name in ((generator, GENERATOR), (discriminator, DISCRIMINATOR)):
        _fill(network, files / name)
        network.eval().requires_grad_(requires_grad=False).to(device.type)
    return Loaded(config, generator, discriminator, device)


def unload(model: Loaded) -> None:
    """Drop the weights and give the device's cache back."""
    model.generator = model.discriminator = None
    memory.give_back()


def _config(file: Path) -> GanConfig:
    if not file.is_file():
        raise ValueError(f"{file.parent} is no GAN's directory: it has no {file.name}")
    try:
        return GanConfig.model_validate_json(file.read_bytes())
    except ValidationError as error:
        problems = "; ".join(str(problem) for problem in from_validation(error, GanConfig))
        raise ValueError(f"{file}: {problems}") from error


def _fill(network: nn.Module, file: Path) -> None:
    if not file.is_file():
        raise ValueError(f"{file.parent} is no GAN's directory: it has no {file.name}")
    try:
        network.load_state_dict(load_file(file))
    except (SafetensorError, RuntimeError) as error:  # torch's own, for other names or shapes
        raise ValueError(f"{file} does not hold the network of {CONFIG}: {error}") from error
