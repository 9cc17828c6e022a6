"""Whether memory does for a training, by the base's files and the request, before loading."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from jobs.kinds.sizes import parse_size
from jobs.trainings.requests import FinetuneRequest
from workers import memory
from workers.families.diffusion.denoiser import NAMES
from workers.families.diffusion.finetune.hooks import HOOKS
from workers.family import Device
from workers.training import precision

_CHECKPOINTED = 1 / 8
"""The share of all layers' inputs that is kept where only blocks keep theirs."""
RESERVED = 0.05
"""Of what is there: left to the libraries."""
_TEXT_TOKENS = 512
_QUANTIZED = {"none": 1.0, "int8": 0.55, "nf4": 0.3}
"""Of the bytes of bfloat16."""
_OPTIMIZER_BYTES = {"adamw": 8, "adamw-8bit": 2, "prodigy": 16}
"""Of a parameter."""

_PER_PICTURE = re.compile(r"norm|_mod|adaLN|time|pooled|guidance|text_embedder|t_embedder")
"""Layers that see a picture's time or text once, and not each of its tokens."""

Shapes = Mapping[str, list[int]]


@dataclass(frozen=True)
class Need:
    """Bytes of memory that a training needs at most."""

    denoiser: int
    encoders: int
    lora: int
    activations: int
    shares_memory: bool
    """Whether the encoders stay where the denoiser is: a CPU has one memory."""

    @property
    def total(self) -> int:
        """At once: pictures and texts are encoded first, and on a GPU make way for the steps."""
        steps = self.lora + self.activations
        if self.shares_memory:
            return self.denoiser + self.encoders + steps
        return self.denoiser + max(self.encoders, steps)


def check(files: Path, request: FinetuneRequest, device: Device) -> Need:
    """What the training will need.

    Raises:
        ValueError: that is more than the device has.
    """
    need = estimate(files, request, device)
    there = int(memory.available_bytes(device) * (1 - RESERVED))
    if need.total > there:
        raise ValueError(
            f"this training needs about {_gib(need.total)} (model {_gib(need.denoiser)}, encoders "
            f"{_gib(need.encoders)}, LoRA and optimizer {_gib(need.lora)}, passes "
            f"{_gib(need.activations)}), and the {device.type} has {_gib(there)}: "
            f"{_advice(request)}"
        )
    return need


def estimate(files: Path, request: FinetuneRequest, device: Device) -> Need:
    """The same, whether it is there or not."""
    assert request.rank
    assert request.size
    name = next(name for name in NAMES if (files / name).is_dir())
    config: dict[str, Any] = json.loads((files / name / "config.json").read_text(encoding="utf-8"))
    shapes = dict(_shapes(files / name))
    kind = json.loads((files / "model_index.json").read_text(encoding="utf-8"))["_class_name"]
    hook = HOOKS[kind.replace("ControlNet", "")]
    pass_bytes = precision.dtype_of(request.precision, device).itemsize
    weight_bytes = pass_bytes if device.type == "cuda" else 4
    others = sum(
        math.prod(shape)
        for part in files.iterdir()
        if part.is_dir() and part.name != name
        for _, shape in _shapes(part)
    )
    learnt = sum(
        request.rank * (shape[0] + shape[1])
        for key, shape in shapes.items()
        if len(shape) == 2 and key.removesuffix(".weight").endswith(hook.targets)  # noqa: PLR2004
    )
    each = 4 + 4 + _OPTIMIZER_BYTES[request.optimizer] + (4 if request.ema else 0)
    weights = sum(math.prod(shape) for shape in shapes.values())
    layers = _inputs_of(shapes, config, request, _latent_px(files))
    one = _kept_of(layers, hook.saved, checkpoints=request.gradient_checkpointing)
    return Need(
        denoiser=int(weights * weight_bytes * _QUANTIZED[request.quantize]),
        encoders=others * weight_bytes,
        lora=learnt * each,
        activations=int(one * pass_bytes * (request.batch or 1)),
        shares_memory=device.type != "cuda",
    )


def _kept_of(layers: Mapping[str, float], saved: float, *, checkpoints: bool) -> float:
    """How many numbers a pass of one picture keeps for its way back, by its layers' inputs."""
    if not checkpoints:
        return saved * sum(layers.values())
    # Each block keeps its input, and one at a time is passed again.
    blocks: dict[str, float] = {}
    for key, numbers in layers.items():
        found = re.match(r"^.*?\d+\.", key)
        block = found[0] if found else key
        blocks[block] = blocks.get(block, 0.0) + numbers
    return saved * max(blocks.values()) + _CHECKPOINTED * sum(layers.values())


def _inputs_of(
    shapes: Shapes, config: Mapping[str, Any], request: FinetuneRequest, latent_px: int
) -> dict[str, float]:
    """How many numbers each layer of the denoiser is given for one picture."""
    assert request.size
    width, height = parse_size(request.size)
    latents = width // latent_px * (height // latent_px)
    levels = len(config.get("block_out_channels", ()))
    patch = 2 if {"axes_dims_rope", "axes_dims"} & config.keys() else config.get("patch_size", 1)
    tokens = latents / patch**2 + _TEXT_TOKENS
    return {
        key: shape[1] * (latents / 4 ** _level(key, levels) if levels else tokens)
        for key, shape in shapes.items()
        if len(shape) in {2, 4} and not _PER_PICTURE.search(key)
    }


def _level(key: str, levels: int) -> int:
    """How often a UNet has halved the sides where a layer is."""
    found = re.match(r"^(down|up)_blocks\.(\d+)\.", key)
    if found:
        number = int(found[2])
        return number if found[1] == "down" else levels - 1 - number
    return levels - 1 if key.startswith("mid_block") else 0


def _latent_px(files: Path) -> int:
    config = json.loads((files / "vae" / "config.json").read_text(encoding="utf-8"))
    for name in ("temperal_downsample", "block_out_channels", "encoder_block_out_channels"):
        if name in config:
            halvings = len(config[name]) - (name != "temperal_downsample")
            return int(2**halvings)
    return 8


def _shapes(folder: Path) -> Iterator[tuple[str, list[int]]]:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as tensors:
            for key in tensors.keys():  # noqa: SIM118 (no dictionary)
                yield key, tensors.get_slice(key).get_shape()


def _advice(request: FinetuneRequest) -> str:
    ways = []
    if (request.batch or 1) > 1:
        ways.append("a smaller batch, with accumulate for the rest")
    if not request.gradient_checkpointing:
        ways.append("gradient_checkpointing: true")
    if request.quantize == "none":
        ways.append("quantize: int8 or nf4 (on a GPU)")
    return f"try {'; '.join([*ways, 'a smaller size'])}"


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
