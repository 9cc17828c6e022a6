"""``debug-vae``: an AutoencoderKL with tiny seeded weights. What it makes is a blur of colours."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL

SEED = 20_260_103


def build(folder: Path) -> None:
    """Write the autoencoder in diffusers' layout (safetensors) to ``folder``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8, 8, 16, 16),
            norm_num_groups=4,
            latent_channels=4,
            sample_size=64,
            scaling_factor=5.0,  # of the sample pictures' latents
        )
    vae.eval().save_pretrained(folder, safe_serialization=True)
