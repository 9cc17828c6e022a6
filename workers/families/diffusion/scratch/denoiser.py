"""The denoiser of a small pipeline: made, its flow matching loss, and the pipeline around it."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import (
    AutoencoderTiny,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.training_utils import compute_density_for_timestep_sampling
from torch import Tensor, nn
from torch.nn import functional

from jobs.trainings.architectures import DENOISER_GROUPS, Autoencoder, Denoiser, TextEncoder

TIMES = 1000
"""Times are told to the denoiser as its scheduler does: from 0 to this."""


def make(spec: Denoiser, text: TextEncoder, vae: Autoencoder, size_px: int) -> UNet2DConditionModel:
    """With random weights. The first level, which is the largest, has no attention.

    The pooled text goes into every block beside the time, so that the first level knows as well
    what it is about.

    Raises:
        ValueError: widths and heads do not fit together.
    """
    if len(spec.heads) != len(spec.widths):
        raise ValueError("denoiser.heads must have one number for each of denoiser.widths")
    levels = len(spec.widths)
    return UNet2DConditionModel(
        sample_size=size_px // 8,
        in_channels=vae.latent_channels,
        out_channels=vae.latent_channels,
        layers_per_block=spec.layers,
        block_out_channels=spec.widths,
        norm_num_groups=DENOISER_GROUPS,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * (levels - 1)),
        up_block_types=(*["CrossAttnUpBlock2D"] * (levels - 1), "UpBlock2D"),
        cross_attention_dim=text.width,
        attention_head_dim=spec.heads,  # the number of heads, whatever it is called
        addition_embed_type="text",
        addition_embed_type_num_heads=text.heads,
        resnet_time_scale_shift="scale_shift",
    )


def loss(unet: nn.Module, latents: Tensor, hidden: Tensor) -> Tensor:
    """The mean squared error of the velocity (Lipman et al. 2022), for ``latents`` (B, C, H, W).

    ``hidden`` (B, T, W) is the text's. Times are logit-normal (Esser et al. 2024).
    """
    times = compute_density_for_timestep_sampling(
        "logit_normal", len(latents), logit_mean=0.0, logit_std=1.0
    ).to(latents)
    noise = torch.randn_like(latents)
    mixed = torch.lerp(latents, noise, times.view(-1, 1, 1, 1))
    velocity = unet(mixed, times * TIMES, encoder_hidden_states=hidden).sample
    return functional.mse_loss(velocity.float(), noise - latents)


def tokens_of(tokenizer: Any, captions: Sequence[str]) -> Tensor:
    """The captions' tokens (N, T), filled up and cut to the length that pipelines give them."""
    given = tokenizer(
        list(captions),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    ids: Tensor = given.input_ids
    return ids


def pipeline_of(
    vae: AutoencoderTiny, tokenizer: Any, text_encoder: nn.Module, unet: nn.Module
) -> StableDiffusionPipeline:
    """The pipeline of these parts, with a scheduler that solves the flow in about 20 steps."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DPMSolverMultistepScheduler(
            num_train_timesteps=TIMES,
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            steps_offset=1,  # as the pipeline asks for
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
