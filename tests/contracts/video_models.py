"""Tiny models of other classes than ``debug-video`` is of: what each needs, and its card."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLCogVideoX,
    AutoencoderKLTemporalDecoder,
    AutoencoderKLWan,
    CogVideoXImageToVideoPipeline,
    CogVideoXTransformer3DModel,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    TextToVideoSDPipeline,
    UNet3DConditionModel,
    UNetSpatioTemporalConditionModel,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    T5EncoderModel,
    T5Tokenizer,
)

from storage.models import BUILT_IN, ModelCard
from workers.files import files_of


def build(name: str, cache: Path, folder: Path) -> ModelCard:
    """Write the model of that class to ``folder``; its card says where it lies and what it does."""
    make, details = _MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        make(cache).save_pretrained(folder, safe_serialization=True)
    return ModelCard(
        name=name,
        family="video",
        kind="video",
        source=f"dir:{folder}",
        licence="Apache-2.0",
        default_size="32x32",
        default_steps=2,
        default_guidance=3.0,
        details=details,
    )


def _t5(cache: Path) -> dict[str, Any]:
    files = files_of(BUILT_IN["debug-video"], cache)
    return {
        "tokenizer": T5Tokenizer.from_pretrained(files / "tokenizer"),
        "text_encoder": T5EncoderModel.from_pretrained(files / "text_encoder"),
    }


def _wan(cache: Path) -> Any:
    return WanPipeline(**_t5(cache), **_wan_parts())


def _wan_from_picture(cache: Path) -> Any:
    # Beside the noise come the picture's latents and four channels that say which frame it is.
    parts = _wan_parts(in_channels=36, image_dim=32)
    return WanImageToVideoPipeline(
        **_t5(cache),
        **parts,
        image_encoder=_picture_encoder(32),
        image_processor=CLIPImageProcessor(crop_size=32, size=32),
    )


def _wan_parts(**transformer: int) -> dict[str, Any]:
    return {
        "transformer": WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            text_dim=32,
            freq_dim=32,
            ffn_dim=32,
            num_layers=1,
            rope_max_seq_len=32,
            **transformer,
        ),
        "vae": AutoencoderKLWan(
            base_dim=3,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
        ),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
    }


def _picture_encoder(side_px: int) -> Any:
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=32,
            projection_dim=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=side_px,
            intermediate_size=37,
            patch_size=side_px // 4,
        )
    )


def _cogvideox(cache: Path) -> Any:
    blocks = 4
    return CogVideoXImageToVideoPipeline(
        **_t5(cache),
        transformer=CogVideoXTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=8,
            out_channels=4,
            time_embed_dim=2,
            text_embed_dim=32,
            num_layers=1,
            sample_width=4,
            sample_height=4,
            sample_frames=9,
            max_text_seq_length=226,
            use_rotary_positional_embeddings=True,
        ),
        vae=AutoencoderKLCogVideoX(
            down_block_types=("CogVideoXDownBlock3D",) * blocks,
            up_block_types=("CogVideoXUpBlock3D",) * blocks,
            block_out_channels=(8,) * blocks,
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=2,
        ),
        scheduler=DDIMScheduler(),
    )


def _text_to_video_sd(cache: Path) -> Any:
    files = files_of(BUILT_IN["debug-diffusion"], cache)
    return TextToVideoSDPipeline(
        tokenizer=CLIPTokenizer.from_pretrained(files / "tokenizer"),
        text_encoder=CLIPTextModel.from_pretrained(files / "text_encoder"),
        unet=UNet3DConditionModel(
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
            up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
            cross_attention_dim=32,
            attention_head_dim=4,
            norm_num_groups=2,
        ),
        vae=AutoencoderKL(block_out_channels=(8,), latent_channels=4, norm_num_groups=2),
        scheduler=DDIMScheduler(),
    )


def _stable_video_diffusion(cache: Path) -> Any:
    return StableVideoDiffusionPipeline(
        unet=UNetSpatioTemporalConditionModel(
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            cross_attention_dim=32,
            num_attention_heads=8,
            projection_class_embeddings_input_dim=96,
            addition_time_embed_dim=32,
        ),
        image_encoder=_picture_encoder(224),
        vae=AutoencoderKLTemporalDecoder(
            block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2
        ),
        scheduler=EulerDiscreteScheduler(prediction_type="v_prediction"),
        feature_extractor=CLIPImageProcessor(crop_size=224, size=224),
    )


_WAN = {"default_frames": 5, "frames_multiple_of": 4, "frames_plus": 1, "default_fps": 16}
_MODELS: Mapping[str, tuple[Callable[[Path], Any], Mapping[str, Any]]] = {
    "WanPipeline": (_wan, _WAN),
    "WanImageToVideoPipeline": (_wan_from_picture, {**_WAN, "tasks": ["image-to-video"]}),
    "CogVideoXImageToVideoPipeline": (
        _cogvideox,
        {
            "tasks": ["image-to-video"],
            "default_frames": 9,
            "frames_multiple_of": 8,
            "frames_plus": 1,
        },
    ),
    "TextToVideoSDPipeline": (_text_to_video_sd, {"default_frames": 2}),
    "StableVideoDiffusionPipeline": (
        _stable_video_diffusion,
        {"tasks": ["image-to-video"], "prompt": False, "default_frames": 2, "default_fps": 7},
    ),
}

NAMES = tuple(_MODELS)
