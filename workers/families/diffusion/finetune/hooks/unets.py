"""Stable Diffusion and SDXL, whose denoisers are UNets."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from workers.families.diffusion.finetune.hooks.hook import (
    ATTENTION,
    Crop,
    Hook,
    Row,
    stacked,
)


class StableDiffusion(Hook):
    """``StableDiffusionPipeline``, whatever its scheduler has the UNet predict."""

    targets = ATTENTION
    kohya = "unet"
    is_flow = False

    @property
    def multiple_px(self) -> int:
        """Or the skips of its levels would not fit."""
        levels = len(self.denoiser.config.block_out_channels)
        return int(self.latent_px * 2 ** (levels - 1))

    def encode(self, text: str) -> Row:
        """See `Hook.encode`."""
        hidden, _ = self.pipeline.encode_prompt(text, self.pipeline.device, 1, False)
        return {"hidden": hidden[0]}

    def predict(
        self, noisy: Tensor, told: Tensor, rows: Sequence[Row], crops: Sequence[Crop]
    ) -> Tensor:
        """See `Hook.predict`."""
        answer = self.denoiser(
            noisy,
            told,
            encoder_hidden_states=stacked(rows, "hidden"),
            added_cond_kwargs=self.added(rows, crops),
        )
        predicted: Tensor = answer.sample
        return predicted

    def added(self, rows: Sequence[Row], crops: Sequence[Crop]) -> dict[str, Any] | None:
        """What the UNet is told beside time and text."""
        del rows, crops
        return None


class StableDiffusionXL(StableDiffusion):
    """``StableDiffusionXLPipeline``; its UNet is told of sizes and crops."""

    def encode(self, text: str) -> Row:
        """See `Hook.encode`."""
        hidden, _, pooled, _ = self.pipeline.encode_prompt(
            text, device=self.pipeline.device, do_classifier_free_guidance=False
        )
        return {"hidden": hidden[0], "pooled": pooled[0]}

    def empty(self) -> Row:
        """Zeros, where its guidance has zeros in place of an empty text."""
        row = self.encode("")
        if not self.pipeline.config.force_zeros_for_empty_prompt:
            return row
        return {name: torch.zeros_like(one) for name, one in row.items()}

    def added(self, rows: Sequence[Row], crops: Sequence[Crop]) -> dict[str, Any] | None:
        """Original size, corner of the crop, and target size."""
        pooled = stacked(rows, "pooled")
        numbers = torch.tensor([crop.numbers for crop in crops])
        return {"text_embeds": pooled, "time_ids": numbers.to(pooled)}
