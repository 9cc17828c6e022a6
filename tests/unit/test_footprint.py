"""What a model takes of the memory."""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from workers import footprint

MIB = 2**20
ELSEWHERE = torch.zeros(MIB)


@lru_cache
def kept() -> torch.Tensor:
    """Another model's, perhaps."""
    return torch.zeros(MIB)


@dataclass
class Loaded:
    """A model as a family may hold it."""

    module: torch.nn.Module
    others: dict[str, Any] = field(default_factory=dict)

    def compute(self) -> torch.Tensor:
        """Leads to what is not its own."""
        return ELSEWHERE + kept()


def test_tensors_are_counted_once() -> None:
    """All that a model holds counts, however deep, but once; what its code could reach does not."""
    linear = torch.nn.Linear(256, 255, bias=False)
    norm = torch.nn.BatchNorm1d(8)
    model = Loaded(torch.nn.Sequential(linear, linear, norm))
    weights = 4 * 256 * 255
    statistics = 4 * 4 * 8 + 8  # and a counter of int64
    assert footprint.of_tensors(model) == weights + statistics
    model.others = {
        "view": linear.weight[3:],
        "nowhere": torch.empty(MIB, device="meta"),
        "function": kept,
        "method": model.compute,
        "itself": model,
        "lists": [(torch.zeros(16, dtype=torch.bfloat16),)],
    }
    kept()
    assert footprint.of_tensors(model) == weights + statistics + 32


def test_files_are_counted(tmp_path: Path) -> None:
    """In all folders."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(bytes(10))
    (tmp_path / "c").write_bytes(bytes(5))
    assert footprint.of_files(tmp_path) == 15
