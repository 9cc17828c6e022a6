"""What a training asks of a class of pipeline: to encode, and to predict."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from workers.families.diffusion.denoiser import NAMES
from workers.families.diffusion.finetune.noising import Noising, noising_of

Row = dict[str, Tensor]
"""What a text has become, by name, without a batch dimension."""

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
JOINT_ATTENTION = (*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
"""The linear layers that usually learn, as diffusers' own trainers have them."""


@dataclass(frozen=True)
class Crop:
    """How a picture was fitted: heights before widths, in pixels."""

    original: tuple[int, int]
    corner: tuple[int, int]
    target: tuple[int, int]

    @property
    def numbers(self) -> list[float]:
        """As SDXL is told of it (Podell et al. 2023, arXiv:2307.01952)."""
        return [float(n) for n in (*self.original, *self.corner, *self.target)]


class Hook(ABC):
    """A pipeline of one class, in the hands of a trainer."""

    targets: ClassVar[tuple[str, ...]] = JOINT_ATTENTION
    """The layers that learn, by the ends of their names."""
    kohya: ClassVar[str | None] = None
    """What stands before a layer's name where kohya's naming is read; None: it is not.

    ``unet`` becomes ``lora_unet``, see `diffusers.utils.convert_state_dict_to_kohya`.
    """
    is_flow: ClassVar[bool] = True
    """Whether it is trained by flow matching whatever its scheduler says."""

    saved: ClassVar[float] = 2.0
    """What a pass keeps for its way back, as a multiple of the inputs of the denoiser's layers.

    Counted for the usual model of the class (1024 px, 512 px for Stable Diffusion, bfloat16,
    attention that keeps no matrix), and a quarter more.
    """

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    @abstractmethod
    def encode(self, text: str) -> Row:
        """The text, by the pipeline's own ``encode_prompt``."""

    @abstractmethod
    def predict(
        self, noisy: Tensor, told: Tensor, rows: Sequence[Row], crops: Sequence[Crop]
    ) -> Tensor:
        """The denoiser's guess of the target, for noisy latents at times it is ``told`` (B,)."""

    def empty(self) -> Row:
        """What it is given where there is no caption, as its guidance has it."""
        return self.encode("")

    @cached_property
    def denoiser(self) -> Any:
        """The module that learns."""
        return next(
            part for name in NAMES if (part := getattr(self.pipeline, name, None)) is not None
        )

    @property
    def latent_px(self) -> int:
        """The side of what one latent stands for."""
        return int(self.pipeline.vae_scale_factor)

    @property
    def multiple_px(self) -> int:
        """Of what a picture's sides must be multiples."""
        return self.latent_px * 2

    def noising(self, gamma: float | None) -> Noising:
        """How it is trained."""
        return noising_of(self.pipeline.scheduler, gamma, flow=self.is_flow)

    def latents(self, pixels: Tensor) -> Tensor:
        """Of ``pixels`` (B, 3, H, W) in [-1, 1]: (B, C, h, w), scaled as its denoiser has them.

        The most likely ones, since they are encoded only once.
        """
        vae = self.pipeline.vae
        answer = vae.encode(pixels.to(vae.dtype))
        if hasattr(answer, "latent_dist"):
            found = answer.latent_dist.mode()
        else:
            found = answer.latent if hasattr(answer, "latent") else answer.latents
        return self.scaled(found.float())

    def scaled(self, latents: Tensor) -> Tensor:
        """What a VAE has made, as the denoiser has it."""
        config = self.pipeline.vae.config
        return (latents - (getattr(config, "shift_factor", None) or 0.0)) * config.scaling_factor


def stacked(rows: Sequence[Row], name: str) -> Tensor:
    """What the rows have under that name, as one batch."""
    return torch.stack([row[name] for row in rows])


def packed(latents: Tensor) -> Tensor:
    """(B, C, h, w) as tokens (B, h / 2 * w / 2, 4 C) of two by two, as FLUX and Qwen have them."""
    count, channels, high, wide = latents.shape
    split = latents.view(count, channels, high // 2, 2, wide // 2, 2)
    return split.permute(0, 2, 4, 1, 3, 5).reshape(count, high // 2 * (wide // 2), channels * 4)


def unpacked(tokens: Tensor, like: Tensor) -> Tensor:
    """The other way round, in the shape of ``like``."""
    count, channels, high, wide = like.shape
    split = tokens.view(count, high // 2, wide // 2, channels, 2, 2)
    return split.permute(0, 3, 1, 4, 2, 5).reshape(count, channels, high, wide)
