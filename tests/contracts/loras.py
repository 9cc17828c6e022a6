"""Adapters for the tiny pipelines, saved as diffusers' own trainers and others save them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import save_file
from torch import Tensor

from workers.families.diffusion.load import Loaded
from workers.family import Adapter

ATTENTION = ("to_q", "to_v")


def lora(
    model: Loaded,
    folder: Path,
    seed: int,
    *,
    rank: int = 2,
    targets: Sequence[str] = ATTENTION,
    bank: bool = False,
    dora: bool = False,
) -> Adapter:
    """A LoRA of the model's attention, or of other layers, as diffusers' own trainers save it."""
    part = model.denoiser.name
    weights = _weights(model, seed, rank, targets, dora=dora)
    model.pipeline.save_lora_weights(folder, **{f"{part}_lora_layers": weights})
    return Adapter(f"{folder}@1.0", 1.0, folder, bank=bank)


def kohya(model: Loaded, folder: Path, seed: int, *, rank: int, alpha: float) -> Adapter:
    """A LoRA of the UNet's attention as kohya's trainer saves it."""
    names = {"lora_A": "lora_down", "lora_B": "lora_up"}
    tensors = {}
    for name, tensor in _weights(model, seed, rank, ATTENTION).items():
        layer, matrix, ending = name.rsplit(".", 2)
        key = "lora_unet_" + layer.replace(".", "_")
        tensors[f"{key}.{names[matrix]}.{ending}"] = tensor.contiguous()
        tensors[f"{key}.alpha"] = torch.tensor(alpha)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "kohya.safetensors")
    return Adapter(f"{folder}@1.0", 1.0, folder, bank=True)


def text_lora(model: Loaded, folder: Path, seed: int) -> Adapter:
    """A LoRA of the text encoder's attention, as PEFT names it."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, layer in model.pipeline.text_encoder.named_modules():
        if name.endswith("q_proj"):
            down = torch.randn(2, layer.in_features, generator=generator)
            up = torch.randn(layer.out_features, 2, generator=generator)
            tensors[f"text_encoder.{name}.lora_A.weight"] = down
            tensors[f"text_encoder.{name}.lora_B.weight"] = up
    folder.mkdir(parents=True)
    save_file(tensors, folder / "text.safetensors")
    return Adapter(f"{folder}@1.0", 1.0, folder)


def lokr(model: Loaded, folder: Path, seed: int) -> Adapter:
    """A LoKr of the model's attention, as LyCORIS' trainers save it."""
    layers = {
        name: layer
        for name, layer in model.denoiser.own.named_modules()
        if name.endswith(("attention.to_q", "attention.to_v"))
    }
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, layer in layers.items():
        out, in_ = layer.out_features // 2, layer.in_features // 2
        tensors[f"diffusion_model.{name}.lokr_w1"] = torch.randn(2, 2, generator=generator)
        tensors[f"diffusion_model.{name}.lokr_w2"] = torch.randn(out, in_, generator=generator)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "lokr.safetensors")
    return Adapter(f"{folder}@1.0", 1.0, folder)


def _weights(
    model: Loaded, seed: int, rank: int, targets: Sequence[str], *, dora: bool = False
) -> dict[str, Tensor]:
    denoiser: Any = model.denoiser.own
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=list(targets),
        init_lora_weights=False,
        use_dora=dora,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = peft.get_peft_model(type(denoiser).from_config(denoiser.config), config)
    return {
        name.removeprefix("base_model.model."): tensor
        for name, tensor in peft.get_peft_model_state_dict(made).items()
    }
