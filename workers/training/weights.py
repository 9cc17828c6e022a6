"""Safetensors files whose bytes depend on what is in them, and on nothing else."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

_LENGTH = struct.Struct("<Q")
"""Of the header, which is JSON, before it."""
_METADATA = "__metadata__"


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a file with metadata in its header.

    The library writes those in an order by chance, and the same weights would have another digest
    each time.
    """
    data = save(dict(tensors), dict(metadata))
    (length,) = _LENGTH.unpack(data[: _LENGTH.size])
    start = _LENGTH.size + length
    header = json.loads(data[_LENGTH.size : start])
    header[_METADATA] = dict(sorted(header[_METADATA].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH.size)  # where tensors begin is a multiple of 8
    with path.open("wb") as file:
        file.write(_LENGTH.pack(len(text)))
        file.write(text)
        file.write(memoryview(data)[start:])
