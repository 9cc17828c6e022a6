"""A small classifier of pictures: it says what a generated picture shows, by name."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

CONFIG = "judge.json"
WEIGHTS = "judge.safetensors"
WIDTHS = (32, 64, 128, 192)


class Judge(nn.Module):  # type: ignore[misc]  # mypy does not follow torch
    """A residual network on pictures of ``side_px``, to which all others are resized.

    Each stage halves the sides; what is left is averaged to the features. Until `load` or `eval`
    it is in training mode.
    """

    def __init__(
        self, names: Sequence[str], side_px: int = 64, widths: Sequence[int] = WIDTHS
    ) -> None:
        super().__init__()
        self.names = tuple(names)
        self.side_px = side_px
        self.widths = tuple(widths)
        self.stages = nn.Sequential(
            *(_Stage(a, b) for a, b in zip((3, *widths[:-1]), widths, strict=True))
        )
        self.head = nn.Linear(widths[-1], len(self.names))

    def features(self, pictures: Tensor) -> Tensor:
        """What it sees in pictures (N, 3, H, W) from -1 to 1, (N, D)."""
        size = (self.side_px, self.side_px)
        if pictures.shape[-2:] != size:
            pictures = functional.interpolate(pictures, size, mode="bilinear", antialias=True)
        return self.stages(pictures).mean(dim=(2, 3))

    def forward(self, pictures: Tensor) -> Tensor:
        """The logits (N, names) of pictures (N, 3, H, W) from -1 to 1."""
        return self.head(self.features(pictures))

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def items(self, pictures: Tensor) -> Tensor:
        """The most likely of the names, as indices (N,), of pictures (N, 3, H, W) from -1 to 1."""
        return self(pictures).argmax(dim=1)

    def save(self, folder: Path, trained: Mapping[str, Any]) -> None:
        """Write its weights, and its configuration with what it was ``trained`` with."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / WEIGHTS)
        config = {
            "names": self.names,
            "side_px": self.side_px,
            "widths": self.widths,
            "trained": dict(trained),
        }
        text = json.dumps(config, indent=1, ensure_ascii=False) + "\n"
        (folder / CONFIG).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Judge":
        """The judge in ``folder``, in evaluation mode.

        Raises:
            ValueError: there is none, or its files do not belong together.
        """
        try:
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            judge = cls(config["names"], config["side_px"], config["widths"])
            judge.load_state_dict(load_file(folder / WEIGHTS))
        except (OSError, KeyError, RuntimeError, SafetensorError, ValueError) as error:
            raise ValueError(f"{folder} holds no judge: {error}") from error
        judge.eval().requires_grad_(requires_grad=False)
        return judge


class _Stage(nn.Module):  # type: ignore[misc]  # as above
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.down = _convolution(channels, width, stride=2)
        self.more = _convolution(width, width, stride=1)

    def forward(self, x_bchw: Tensor) -> Tensor:
        x_bchw = functional.relu(self.down(x_bchw))
        return functional.relu(x_bchw + self.more(x_bchw))


def _convolution(channels: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width)
    )


def as_tensor(pictures: Sequence[Image.Image]) -> Tensor:
    """RGB pictures of one size as (N, 3, H, W) from -1 to 1."""
    stacked = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    return stacked.permute(0, 3, 1, 2).float() / 127.5 - 1
