"""``debug-diffusion``: Stable Diffusion with a ControlNet, with tiny seeded weights.

It makes noise. Every path through the product runs on it in seconds on a CPU.
"""

import json
import tempfile
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DPMSolverMultistepScheduler,
    StableDiffusionControlNetPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

SEED = 20_260_101
TOKENS = 77
"""Length of a prompt in tokens, as CLIP has it."""


def build(folder: Path) -> None:
    """Write the pipeline's directory in diffusers' layout (safetensors) to ``folder``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=514,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=TOKENS,
                bos_token_id=512,
                eos_token_id=513,
                pad_token_id=513,
            )
        )
        unet = UNet2DConditionModel(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(32, 64),
            norm_num_groups=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=2,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8, 8, 16, 16),
            norm_num_groups=4,
            latent_channels=4,
            sample_size=128,
        )
        controlnet = ControlNetModel.from_unet(
            unet, conditioning_embedding_out_channels=(8, 8, 16, 16), load_weights_from_unet=False
        )
        # Untrained, these are zero: the picture that it follows would make no difference.
        for layer in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
            torch.nn.init.normal_(layer.weight, std=0.1)
        torch.nn.init.normal_(controlnet.controlnet_cond_embedding.conv_out.weight, std=0.1)
    pipeline = StableDiffusionControlNetPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer(),
        unet=unet.eval(),
        controlnet=controlnet.eval(),
        scheduler=DPMSolverMultistepScheduler(steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)


def tokenizer() -> CLIPTokenizer:
    """CLIP's byte-level BPE without any merges: one token a byte, 512 of them plus two."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    # The characters by which byte-level BPE writes bytes (GPT-2's table).
    characters = [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]
    tokens = [*characters, *(character + "</w>" for character in characters)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder) / "vocab.json"
        vocabulary.write_text(json.dumps({token: n for n, token in enumerate(tokens)}))
        merges = Path(folder) / "merges.txt"
        merges.write_text("#version: 0.2\n")
        return CLIPTokenizer(str(vocabulary), str(merges), model_max_length=TOKENS)
