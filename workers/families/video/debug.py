"""``debug-video``: a whole LTXPipeline with tiny seeded weights. It makes moving noise."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)
from transformers import T5Config, T5EncoderModel, T5Tokenizer

SEED = 20_260_101
_WIDTH = 32


def build(folder: Path) -> None:
    """Write the pipeline's directory in diffusers' layout (safetensors) to ``folder``."""
    t5 = tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        text_encoder = T5EncoderModel(
            T5Config(
                vocab_size=len(t5),
                d_model=_WIDTH,
                d_kv=8,
                d_ff=64,
                num_layers=2,
                num_heads=4,
            )
        )
        transformer = LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=4,
            attention_head_dim=8,
            cross_attention_dim=_WIDTH,
            caption_channels=_WIDTH,
            num_layers=1,
        )
        blocks = {"block_out_channels": (8,) * 4, "layers_per_block": (1,) * 5}
        vae = AutoencoderKLLTXVideo(
            latent_channels=8,
            **blocks,
            **{f"decoder_{name}": value for name, value in blocks.items()},
            patch_size=1,
        )
    pipeline = LTXPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=t5,
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
    pipeline.save_pretrained(folder, safe_serialization=True)


def tokenizer() -> T5Tokenizer:
    """A Unigram model of the letters of ASCII; all others are unknown to it."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    letters = [("▁", -2.0), *((chr(code), -3.0) for code in range(33, 127))]
    return T5Tokenizer(vocab=[*special, *letters], extra_ids=0)
