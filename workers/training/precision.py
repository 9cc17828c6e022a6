"""In which precision a training computes its passes; weights and optimiser stay float32."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from jobs.trainings.requests import Precision
from workers.family import Device


def dtype_of(precision: Precision, device: Device) -> torch.dtype:
    """What passes are computed in on that device."""
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" or _is_fast_on_cpu() else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def autocast(precision: Precision, device: Device) -> AbstractContextManager[Any]:
    """A block in which passes are computed so."""
    dtype = dtype_of(precision, device)
    return nullcontext() if dtype is torch.float32 else torch.autocast(device.type, dtype)


def _is_fast_on_cpu() -> bool:
    # Others have to emulate it, which is slower than float32.
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())  # noqa: SLF001
