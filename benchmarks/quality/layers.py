"""Whether 8-bit layers are quicker on a CPU."""

import copy
import itertools
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from benchmarks.quality.rows import Row, compared
from workers.families.diffusion.quality import quantized


def of_layers(rounds: int) -> Iterator[Row]:
    """A feed-forward of 1024 on 1024 tokens, in either precision, eager and compiled."""
    for dtype, is_compiled in itertools.product((torch.float32, torch.bfloat16), (False, True)):
        plain = torch.nn.Sequential(
            torch.nn.Linear(1024, 4096), torch.nn.GELU(), torch.nn.Linear(4096, 1024)
        )
        ways = {
            "plain": torch.nn.ModuleDict({"blocks": plain.to(dtype)}),
            "int8": quantized(
                torch.nn.ModuleDict({"blocks": copy.deepcopy(plain).to(dtype)}), "int8"
            ),
        }
        calls = {
            way: torch.compile(module["blocks"]) if is_compiled else module["blocks"]
            for way, module in ways.items()
        }
        tokens = torch.randn(1024, 1024, dtype=dtype)
        with torch.inference_mode():
            made = {way: call(tokens).double().numpy() for way, call in calls.items()}
            took_s: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(rounds):
                for way, call in calls.items():
                    started = time.perf_counter()
                    call(tokens)
                    took_s[way].append(time.perf_counter() - started)
        name = f"feed-forward, {dtype}, {'compiled' if is_compiled else 'eager'}"
        middle = {way: statistics.median(values) * 1000 for way, values in took_s.items()}
        row = compared(name, f"int8, {middle['int8']:.0f} ms", made["int8"], made["plain"], 1)
        yield replace(row, speed=middle["plain"] / middle["int8"])
