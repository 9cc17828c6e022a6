"""What an adapter is, and whether it may share a batch, from its safetensors file's header."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from jobs.kinds.values import BANK_DETAIL
from jobs.problems import Problem
from jobs.registry import peft_settings

DOWN = (".lora_A.weight", ".lora_A.default.weight", ".lora_down.weight", ".lora.down.weight")
UP = (".lora_B.weight", ".lora_B.default.weight", ".lora_up.weight", ".lora.up.weight")
DORA = (".lora_magnitude_vector", ".lora_magnitude_vector.weight")
KOHYA_DORA = ".dora_scale"
OTHER = (".alpha", *DORA)
LOKR = tuple(f".lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b"))
"""How the names of its tensors end, as PEFT, kohya, diffusers and LyCORIS write them."""

TEXT_ENCODERS = ("text_encoder", "text_model", "lora_te")
"""What the names of a text encoder's layers have in them."""

MAX_BANK_RANK = 128
"""All in a batch are padded to the largest: with larger ones, a batch of their own is faster."""

LANGUAGE = "causal_lm"
"""The family whose adapters PEFT has written, and only PEFT."""

Shape = list[int]


def examine(
    files: Mapping[str, Path], family: str = "diffusion"
) -> tuple[dict[str, Any], list[Problem]]:
    """Its details, and what is wrong with it, for a model of that ``family``.

    The details are the largest ``rank``, how many ``layers`` it changes, which sorts of them
    (``targets``), and whether it may share batches with other adapters (``bank``); if not,
    ``bank_refused`` says why.
    """
    weights = [path for path in files if path.endswith(".safetensors")]
    if len(weights) != 1 or "/" in weights[0]:
        found = ", ".join(weights) or "none"
        message = f"an adapter is one .safetensors file, not in a folder; here: {found}"
        return {}, [Problem(message, field="source")]
    path = weights[0]
    with safe_open(files[path], framework="numpy") as tensors:
        shapes = {key: tensors.get_slice(key).get_shape() for key in tensors.keys()}  # noqa: SIM118 (no dictionary)
    details: dict[str, Any] = {}
    if any(key.endswith(LOKR) for key in shapes):
        wrong = _wrong_lokr(shapes)
        layers = {_layer(key, LOKR) for key in shapes if key.endswith(LOKR)}
    else:
        wrong = _wrong_lora(shapes)
        layers = {_layer(key, DOWN) for key in shapes if key.endswith(DOWN)}
        details["rank"] = max((s[0] for key, s in shapes.items() if key.endswith(DOWN)), default=0)
    if wrong:
        return {}, [Problem(wrong, file=path)]
    if family == LANGUAGE:
        try:
            peft_settings.read(files)
        except ValueError as error:
            return {}, [Problem(str(error), file=peft_settings.FILE)]
    details |= {"layers": len(layers), "targets": sorted({target_of(name) for name in layers})}
    refused = _bank_refused(shapes, details.get("rank"))
    if family == LANGUAGE:
        refused = "it is for a language model"
    return details | {BANK_DETAIL: not refused} | ({"bank_refused": refused} if refused else {}), []


def _wrong_lora(shapes: Collection[str]) -> str | None:
    downs = {_layer(key, DOWN) for key in shapes if key.endswith(DOWN)}
    ups = {_layer(key, UP) for key in shapes if key.endswith(UP)}
    for key in shapes:
        if key.endswith(KOHYA_DORA):
            return (
                f"{key!r} is a DoRA as kohya writes it, whose magnitudes diffusers leaves out: "
                "convert it to PEFT's names (lora_magnitude_vector)"
            )
        if not key.endswith((*DOWN, *UP, *OTHER)):
            return f"has a tensor {key!r}, which no LoRA has"
    alone = sorted(downs ^ ups)
    if alone:
        return f"{alone[0]!r} has only one of its two matrices"
    return None if downs else "has no LoRA matrices"


def _wrong_lokr(shapes: Collection[str]) -> str | None:
    foreign = [key for key in shapes if not key.endswith((*LOKR, ".alpha"))]
    return f"has a tensor {foreign[0]!r}, which no LoKr has" if foreign else None


def _bank_refused(shapes: Mapping[str, Shape], rank: int | None) -> str | None:
    """Why it may not share batches with other adapters."""
    if rank is None:
        return "it is a LoKr"
    if any(key.endswith(DORA) for key in shapes):
        return "it is a DoRA"
    if any(len(shape) > 2 for shape in shapes.values()):  # noqa: PLR2004 (a matrix has two)
        return "it changes convolutions"
    if any(part in key for key in shapes for part in TEXT_ENCODERS):
        return "it changes a text encoder"
    return f"its rank is over {MAX_BANK_RANK}" if rank > MAX_BANK_RANK else None


def target_of(layer: str) -> str:
    """The sort of a layer, by its name after the last block: ``to_q``, ``to_out.0``, ``proj``.

    kohya's names have underscores for dots: ``to_out_0``.
    """
    return re.sub(r"^.*\d[._](?=\D)", "", layer)


def _layer(key: str, endings: tuple[str, ...]) -> str:
    return next((key.removesuffix(end) for end in endings if key.endswith(end)), key)
