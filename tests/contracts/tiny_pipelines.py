"""Every known class of pipeline, whole but tiny, with seeded weights, as directories on disk."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from tests.contracts.tiny_controlnets import controlnet
from workers.families.diffusion import debug
from workers.families.video.debug import tokenizer as t5_tokenizer

TOKENS = 514


def _clip_text(*, projects: bool = False, size: int = 32) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=TOKENS,
        hidden_size=size,
        projection_dim=size,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
    )
    kind = transformers.CLIPTextModelWithProjection if projects else transformers.CLIPTextModel
    return kind(config)


def _t5() -> Any:
    config = transformers.T5Config(
        vocab_size=300, d_model=32, d_ff=37, d_kv=8, num_layers=2, num_heads=4
    )
    return transformers.T5EncoderModel(config)


def _bytes_bpe(kind: Any, **more: Any) -> Any:
    """A byte-level BPE without merges."""
    clip = debug.tokenizer().get_vocab()
    tokens = sorted((token for token in clip if len(token) == 1), key=lambda token: clip[token])
    tokens += ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return kind(vocab={token: number for number, token in enumerate(tokens)}, merges=[], **more)


def _kl(channels: int = 4, **more: Any) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=32,
        **more,
    )


_FLOW_KL = {
    "shift_factor": 0.06,
    "scaling_factor": 1.5,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


def _unet(**more: Any) -> Any:
    return diffusers.UNet2DConditionModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(32, 64),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        **{"cross_attention_dim": 32, **more},
    )


def _stable_diffusion() -> dict[str, Any]:
    return {
        "vae": _kl(),
        "text_encoder": _clip_text(),
        "tokenizer": debug.tokenizer(),
        "unet": _unet(),
        "scheduler": diffusers.DPMSolverMultistepScheduler(steps_offset=1),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def _xl() -> dict[str, Any]:
    return {
        "vae": _kl(),
        "text_encoder": _clip_text(),
        "text_encoder_2": _clip_text(projects=True),
        "tokenizer": debug.tokenizer(),
        "tokenizer_2": debug.tokenizer(),
        "unet": _unet(
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            transformer_layers_per_block=(1, 1),
            projection_class_embeddings_input_dim=80,  # 6 * 8 + 32
            cross_attention_dim=64,
            use_linear_projection=True,
        ),
        "scheduler": diffusers.EulerDiscreteScheduler(steps_offset=1),
    }


def _sd3() -> dict[str, Any]:
    return {
        "transformer": diffusers.SD3Transformer2DModel(
            sample_size=32,
            patch_size=1,
            in_channels=16,
            out_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=32,
            pooled_projection_dim=64,
        ),
        "text_encoder": _clip_text(projects=True, size=32),
        "text_encoder_2": _clip_text(projects=True, size=32),
        "text_encoder_3": _t5(),
        "tokenizer": debug.tokenizer(),
        "tokenizer_2": debug.tokenizer(),
        "tokenizer_3": t5_tokenizer(),
        "vae": _kl(channels=16, **_FLOW_KL),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    }


def _flux() -> dict[str, Any]:
    return {
        "transformer": diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=True,
        ),
        "text_encoder": _clip_text(),
        "text_encoder_2": _t5(),
        "tokenizer": debug.tokenizer(),
        "tokenizer_2": t5_tokenizer(),
        "vae": _kl(channels=1, **_FLOW_KL),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    }


def _pixart() -> dict[str, Any]:
    return {
        "transformer": diffusers.PixArtTransformer2DModel(
            sample_size=8,
            num_layers=1,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=3,
            caption_channels=32,
            in_channels=4,
            cross_attention_dim=24,
            out_channels=8,
            attention_bias=True,
            activation_fn="gelu-approximate",
            num_embeds_ada_norm=1000,
            norm_type="ada_norm_single",
            norm_elementwise_affine=False,
            norm_eps=1e-6,
            use_additional_conditions=False,
        ),
        "text_encoder": _t5(),
        "tokenizer": t5_tokenizer(),
        "vae": _kl(),
        "scheduler": diffusers.DPMSolverMultistepScheduler(),
    }


def _sana() -> dict[str, Any]:
    return {
        "transformer": diffusers.SanaTransformer2DModel(
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            num_attention_heads=2,
            attention_head_dim=4,
            num_cross_attention_heads=2,
            cross_attention_head_dim=4,
            cross_attention_dim=8,
            caption_channels=8,
            sample_size=32,
        ),
        "vae": diffusers.AutoencoderDC(
            in_channels=3,
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types=("ResBlock", "EfficientViTBlock"),
            decoder_block_types=("ResBlock", "EfficientViTBlock"),
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            encoder_qkv_multiscales=((), (5,)),
            decoder_qkv_multiscales=((), (5,)),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            downsample_block_type="conv",
            upsample_block_type="interpolate",
            decoder_norm_types="rms_norm",
            decoder_act_fns="silu",
            scaling_factor=0.41407,
        ),
        "text_encoder": transformers.Gemma2Model(
            transformers.Gemma2Config(
                head_dim=4,
                hidden_size=8,
                intermediate_size=8,
                num_attention_heads=2,
                num_hidden_layers=1,
                num_key_value_heads=2,
                vocab_size=300,
            )
        ),
        "tokenizer": _gemma_tokenizer(),
        "scheduler": diffusers.DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    }


def _gemma_tokenizer() -> Any:
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", "\n"]
    tokens += [chr(code) for code in range(33, 127)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return transformers.GemmaTokenizer(vocab=vocabulary, merges=[])


def _qwen() -> dict[str, Any]:
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "rope_parameters": {
                "mrope_section": [1, 1, 2],
                "rope_type": "default",
                "rope_theta": 1000000.0,
            },
            "vocab_size": 300,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 16,
        },
    )
    return {
        "transformer": diffusers.QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=3,
            joint_attention_dim=16,
            guidance_embeds=False,
            axes_dims_rope=(8, 4, 4),
        ),
        "vae": diffusers.AutoencoderKLQwenImage(
            base_dim=12,
            z_dim=4,
            dim_mult=[1, 2, 4],
            num_res_blocks=1,
            temperal_downsample=[False, True],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        "text_encoder": transformers.Qwen2_5_VLForConditionalGeneration(config),
        "tokenizer": _bytes_bpe(transformers.Qwen2Tokenizer),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    }


_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}<|im_start|>assistant\n"
)


def _z_image() -> dict[str, Any]:
    tokenizer = _bytes_bpe(transformers.Qwen2Tokenizer)
    tokenizer.chat_template = _CHAT
    return {
        "transformer": diffusers.ZImageTransformer2DModel(
            all_patch_size=(2,),
            all_f_patch_size=(1,),
            in_channels=16,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            qk_norm=True,
            cap_feat_dim=16,
            rope_theta=256.0,
            t_scale=1000.0,
            axes_dims=[8, 4, 4],
            axes_lens=[256, 32, 32],
        ),
        "vae": _kl(channels=16, **_FLOW_KL),
        "text_encoder": transformers.Qwen3Model(
            transformers.Qwen3Config(
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                vocab_size=300,
                max_position_embeddings=512,
                head_dim=8,
            )
        ),
        "tokenizer": tokenizer,
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    }


PIPELINES: Mapping[str, Callable[[], dict[str, Any]]] = {
    "StableDiffusionPipeline": _stable_diffusion,
    "StableDiffusionXLPipeline": _xl,
    "StableDiffusion3Pipeline": _sd3,
    "FluxPipeline": _flux,
    "PixArtAlphaPipeline": _pixart,
    "PixArtSigmaPipeline": _pixart,
    "SanaPipeline": _sana,
    "QwenImagePipeline": _qwen,
    "ZImagePipeline": _z_image,
}


def _lcm() -> dict[str, Any]:
    return {
        **_stable_diffusion(),
        "unet": _unet(time_cond_proj_dim=32),
        "scheduler": diffusers.LCMScheduler(),
    }


UNKNOWN: Mapping[str, Callable[[], dict[str, Any]]] = {
    "LatentConsistencyModelPipeline": _lcm,
    "SemanticStableDiffusionPipeline": _stable_diffusion,  # it has no callback on steps
}
"""Classes that the table of capabilities does not have."""


def save(name: str, folder: Path) -> Path:
    """Write a pipeline of that class to ``folder``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        plain = name.replace("ControlNet", "")
        parts = {**PIPELINES, **UNKNOWN}[plain]()
        if plain != name:
            parts["controlnet"] = controlnet(plain, parts)
        pipeline = getattr(diffusers, name)(**parts)
        for part in pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                part.eval()
        pipeline.save_pretrained(folder, safe_serialization=True)
    return folder
