"""The autoencoder of a small pipeline: made, and its losses."""

import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from torch.nn import functional

from jobs.trainings.architectures import Autoencoder
from workers.training.losses import gradient_l1

LATENT_WEIGHT = 1e-3
"""Of keeping each latent channel near mean 0 and variance 1, where diffusion expects them."""


def make(spec: Autoencoder) -> AutoencoderTiny:
    """With random weights. It has no norms: those of ``AutoencoderKL`` leave bright specks."""
    widths = (spec.width,) * 4
    return AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        latent_channels=spec.latent_channels,
        num_encoder_blocks=spec.down,
        num_decoder_blocks=spec.up,
    )


def loss(vae: AutoencoderTiny, pixels: Tensor, spec: Autoencoder) -> tuple[Tensor, Tensor]:
    """What to make small, and the L1 distance within it, for ``pixels`` (B, 3, H, W) in [-1, 1].

    Noise on the latents makes the decoder patient with what a denoiser gets nearly right.
    """
    latents = vae.encoder(pixels)
    noisy = latents + spec.noise * torch.randn_like(latents)
    made = vae.decoder(noisy).float()
    l1 = functional.l1_loss(made, pixels)
    mean, std = latents.float().mean((0, 2, 3)), latents.float().std((0, 2, 3))
    centred = mean.square().mean() + (std + 1e-6).log().square().mean()
    return l1 + spec.gradient_weight * gradient_l1(made, pixels) + LATENT_WEIGHT * centred, l1


def scale_of(vae: AutoencoderTiny, pixels: Tensor) -> float:
    """The factor that gives the latents of ``pixels`` (B, 3, H, W) variance 1."""
    with torch.inference_mode():
        return 1 / float(vae.encoder(pixels).std())
