"""From a GGUF file to a transformers directory, once, when a model is added.

``python -m workers.gguf FILE FOLDER``
"""

import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from workers import pretrained
from workers.weights import whole

BASE_BYTES = 12 * 1024**3
"""Of address space, most of it for the libraries."""
TIMES_SIZE = 64
"""Two bits of a file become 32 of a weight, and some of them exist twice meanwhile."""

BASE_S = 600
BYTES_A_SECOND = 1_000_000
"""One core converts about four million."""


def convert(gguf: Path, folder: Path) -> None:
    """Write the model in ``gguf`` to ``folder``: safetensors in bf16, and its tokenizer.

    bf16 halves the size; it rounds far finer than the few bits that such files are made with.

    Raises:
        ValueError: the file is not a GGUF, is of an architecture that transformers cannot read, or
            lacks weights.
    """
    with gguf.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(f"{gguf} is not a GGUF file")
    pretrained.quieten()
    loaded = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        local_files_only=True,
        dtype=torch.float32,
        # Otherwise the weights stay packed, and cannot be saved.
        quantization_config=GgufConfig(dequantize=True),
        output_loading_info=True,
    )
    model = whole(loaded, gguf)
    tokenizer = AutoTokenizer.from_pretrained(
        gguf.parent, gguf_file=gguf.name, local_files_only=True
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _limit(gguf: Path) -> None:
    """No more than such a file can need: a header of a hundred bytes may claim any size."""
    size = gguf.stat().st_size
    for name, most in (
        (resource.RLIMIT_AS, BASE_BYTES + TIMES_SIZE * size),
        (resource.RLIMIT_CPU, BASE_S + size // BYTES_A_SECOND),
    ):
        with suppress(OSError, ValueError):  # macOS has no limit on memory
            resource.setrlimit(name, (most, most))


if __name__ == "__main__":
    _limit(Path(sys.argv[1]))
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
