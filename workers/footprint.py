"""How much memory a model takes: what its tensors do, or its files."""

import gc
from collections.abc import Iterator
from functools import _lru_cache_wrapper
from pathlib import Path
from types import (
    BuiltinFunctionType,
    CodeType,
    FrameType,
    FunctionType,
    MethodType,
    ModuleType,
)
from typing import Any

import torch

_ENDS = (
    *(str, bytes, int, float, type, ModuleType, CodeType, FrameType, _lru_cache_wrapper),
    *(FunctionType, BuiltinFunctionType, MethodType),
)
"""What holds no tensors, or leads to everything there is, as functions and classes do."""


def of_tensors(model: Any) -> int:
    """The bytes of the tensors in memory that ``model`` holds, however deep; shared ones once.

    (The growth of the process would count what the libraries keep, and miss what they reuse.)
    """
    sizes: dict[int, int] = {}
    seen = {id(model)}
    found = [model]
    while found:
        one = found.pop()
        if issubclass(type(one), torch.Tensor):
            sizes.update(_storage(one))
        for other in gc.get_referents(one):
            if id(other) not in seen and not isinstance(other, _ENDS):
                seen.add(id(other))
                found.append(other)
    return sum(sizes.values())


def of_files(files: Path) -> int:
    """The bytes of all files below a folder: what a model takes, before anything else is known."""
    return sum(path.stat().st_size for path in files.rglob("*") if path.is_file())


def _storage(tensor: torch.Tensor) -> Iterator[tuple[int, int]]:
    if tensor.device.type == "meta":
        return
    try:
        storage = tensor.untyped_storage()
        yield storage.data_ptr(), storage.nbytes()
    except (RuntimeError, NotImplementedError):
        return  # made of other tensors, as quantized ones are: these are found as well
