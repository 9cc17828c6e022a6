"""Directories with what models are made of, in the smallest form."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def pipeline(folder: Path, *, number: int = 0) -> Path:
    """A pipeline in diffusers' layout whose weights are a handful of numbers."""
    write(folder / "model_index.json", {"_class_name": "StableDiffusionPipeline"})
    write(folder / "vae" / "config.json", {"block_out_channels": [1] * 4, "n": number})
    tensors(folder / "vae" / "diffusion_pytorch_model.safetensors", {"w": (4, number + 1)})
    return folder


def lora(folder: Path, *, rank: int = 4) -> Path:
    """A LoRA for one layer, as PEFT names its tensors."""
    layer = "unet.mid.attn.to_q"
    shapes = {f"{layer}.lora_A.weight": (rank, 8), f"{layer}.lora_B.weight": (8, rank)}
    tensors(folder / "lora.safetensors", shapes)
    return folder


def tensors(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Path:
    """A safetensors file of zeros."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.zeros(shape, np.float32) for name, shape in shapes.items()}, path)
    return path


def write(path: Path, content: object) -> Path:
    """A file: bytes and text as they are, anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, bytes | str):
        content = json.dumps(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
