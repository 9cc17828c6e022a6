"""Tiny ControlNets with seeded weights, for the tiny pipelines."""

from collections.abc import Mapping
from typing import Any

import diffusers
import torch


def controlnet(name: str, parts: Mapping[str, Any]) -> Any:
    """One that fits the pipeline of that class, made of ``parts``."""
    denoiser = parts.get("transformer") or parts["unet"]
    match name:
        case "StableDiffusionPipeline" | "StableDiffusionXLPipeline":
            made = diffusers.ControlNetModel.from_unet(
                denoiser, conditioning_embedding_out_channels=(8, 16)
            )
            made.register_to_config(conditioning_embedding_out_channels=(8, 16))
        case "StableDiffusion3Pipeline":
            changes = {"num_layers": 1, "extra_conditioning_channels": 0}
            made = diffusers.SD3ControlNetModel.from_config({**denoiser.config, **changes})
        case "FluxPipeline":
            made = diffusers.FluxControlNetModel.from_transformer(
                denoiser,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
            )
        case "QwenImagePipeline":
            made = diffusers.QwenImageControlNetModel.from_transformer(
                denoiser, num_layers=1, attention_head_dim=16, num_attention_heads=3
            )
        case "SanaPipeline":
            made = diffusers.SanaControlNetModel(
                patch_size=1,
                in_channels=4,
                num_layers=1,
                num_attention_heads=2,
                attention_head_dim=4,
                num_cross_attention_heads=2,
                cross_attention_head_dim=4,
                cross_attention_dim=8,
                caption_channels=8,
                sample_size=32,
            )
        case _:
            made = diffusers.ZImageControlNetModel(
                control_layers_places=[0],
                control_refiner_layers_places=[0],
                control_in_dim=16,
                all_patch_size=(2,),
                all_f_patch_size=(1,),
                dim=32,
                n_refiner_layers=1,
                n_heads=2,
                n_kv_heads=2,
            )
    for weights in made.parameters():
        if not weights.any():  # untrained, what it finds is multiplied by zero
            torch.nn.init.normal_(weights, std=0.5)
    return made
