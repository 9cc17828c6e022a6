"""What an adapter (LoRA) is, read from the header of its safetensors file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from jobs.problems import Problem

DOWN = (".lora_A.weight", ".lora_A.default.weight", ".lora_down.weight", ".lora.down.weight")
UP = (".lora_B.weight", ".lora_B.default.weight", ".lora_up.weight", ".lora.up.weight")
OTHER = (".alpha", ".dora_scale", ".lora_magnitude_vector", ".lora_magnitude_vector.weight")
"""How the names of its tensors end, as PEFT, kohya and diffusers write them."""


def examine(files: Mapping[str, Path]) -> tuple[dict[str, Any], list[Problem]]:
    """Its details (the largest rank, and how many layers it changes), and what is wrong with it."""
    weights = [path for path in files if path.endswith(".safetensors")]
    if len(weights) != 1 or "/" in weights[0]:
        found = ", ".join(weights) or "none"
        message = f"an adapter is one .safetensors file, not in a folder; here: {found}"
        return {}, [Problem(message, field="source")]
    path = weights[0]
    ranks = {}
    ups = set()
    with safe_open(files[path], framework="numpy") as tensors:
        for key in tensors.keys():  # noqa: SIM118 (no dictionary)
            down = _layer(key, DOWN)
            up = _layer(key, UP)
            if down:
                ranks[down] = tensors.get_slice(key).get_shape()[0]
            elif up:
                ups.add(up)
            elif not key.endswith(OTHER):
                return {}, [Problem(f"has a tensor {key!r}, which no LoRA has", file=path)]
    alone = sorted(ranks.keys() ^ ups)
    if alone:
        return {}, [Problem(f"{alone[0]!r} has only one of its two matrices", file=path)]
    if not ranks:
        return {}, [Problem("has no LoRA matrices", file=path)]
    return {"rank": max(ranks.values()), "layers": len(ranks)}, []


def _layer(key: str, endings: tuple[str, ...]) -> str | None:
    return next((key.removesuffix(end) for end in endings if key.endswith(end)), None)
