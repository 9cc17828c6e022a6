"""``debug-gan``: a GAN of 32 px with two classes and small seeded weights. It makes patterns."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from storage.models import BUILT_IN
from workers.families.gan.load import CONFIG, DISCRIMINATOR, GENERATOR
from workers.families.gan.model import Discriminator, GanConfig, Generator

SEED = 20_260_102


def build(folder: Path) -> None:
    """Write the configuration and both networks to ``folder``."""
    labels = BUILT_IN["debug-gan"].details["labels"]
    config = GanConfig(size_px=32, latent_size=16, channels=8, class_names=tuple(labels))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        generator, discriminator = Generator(config), Discriminator(config)
        # Batch norm knows nothing yet, and without its statistics every picture is plain grey.
        with torch.no_grad():
            for _ in range(30):
                generator(torch.randn(64, config.latent_size), torch.randint(len(labels), (64,)))
    (folder / CONFIG).write_text(config.model_dump_json(), encoding="utf-8")
    save_file(generator.state_dict(), folder / GENERATOR)
    save_file(discriminator.state_dict(), folder / DISCRIMINATOR)
