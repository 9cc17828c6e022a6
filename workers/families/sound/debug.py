"""``debug-sound``: a whole StableAudioPipeline with tiny seeded weights. It makes noise."""

import string
from pathlib import Path

import torch
from diffusers import (
    AutoencoderOobleck,
    EDMDPMSolverMultistepScheduler,
    StableAudioDiTModel,
    StableAudioPipeline,
    StableAudioProjectionModel,
)
from transformers import T5Config, T5EncoderModel, T5Tokenizer

SEED = 20_260_101
SAMPLE_RATE_HZ = 8000
MAX_DURATION_S = 4
TOKENS = 32
"""Length of a prompt in tokens: here, characters."""


def build(folder: Path) -> None:
    """Write the pipeline's directory in diffusers' layout (safetensors) to ``folder``."""
    tokenizer = _tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        text_encoder = T5EncoderModel(
            T5Config(
                vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2
            )
        )
        vae = AutoencoderOobleck(
            encoder_hidden_size=8,
            downsampling_ratios=[4, 8, 8],
            channel_multiples=[1, 2, 2],
            decoder_channels=8,
            decoder_input_channels=8,
            audio_channels=2,
            sampling_rate=SAMPLE_RATE_HZ,
        )
        transformer = StableAudioDiTModel(
            sample_size=MAX_DURATION_S * SAMPLE_RATE_HZ // vae.hop_length,
            in_channels=8,
            out_channels=8,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            num_key_value_attention_heads=2,
            cross_attention_dim=16,
            cross_attention_input_dim=16,
            time_proj_dim=16,
            global_states_input_dim=32,
        )
        projection = StableAudioProjectionModel(
            text_encoder_dim=16, conditioning_dim=16, min_value=0, max_value=32
        )
    pipeline = StableAudioPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        projection_model=projection.eval(),
        tokenizer=tokenizer,
        transformer=transformer.eval(),
        scheduler=EDMDPMSolverMultistepScheduler(
            prediction_type="v_prediction", sigma_data=1.0, sigma_schedule="exponential"
        ),
    )
    pipeline.save_pretrained(folder, safe_serialization=True)


def _tokenizer() -> T5Tokenizer:
    """One token a character."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *string.ascii_letters, *string.digits]
    return T5Tokenizer(
        vocab=[(piece, -1.0) for piece in pieces], extra_ids=0, model_max_length=TOKENS
    )
