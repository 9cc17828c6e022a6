"""Classes whose denoisers are transformers; all are trained by flow matching."""

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from workers.families.diffusion.finetune.hooks.hook import (
    ATTENTION,
    Crop,
    Hook,
    Row,
    packed,
    stacked,
    unpacked,
)
from workers.families.diffusion.finetune.noising import TIMES

GUIDANCE = 1.0
"""What models that guidance was distilled into are told of it: none, as the pictures have none."""


class StableDiffusion3(Hook):
    """``StableDiffusion3Pipeline``."""

    saved = 0.9

    @property
    def multiple_px(self) -> int:
        """See `Hook.multiple_px`."""
        return self.latent_px * int(self.denoiser.config.patch_size)

    def encode(self, text: str) -> Row:
        """See `Hook.encode`."""
        hidden, _, pooled, _ = self.pipeline.encode_prompt(
            text,
            None,
            None,
            device=self.pipeline.device,
            do_classifier_free_guidance=False,
        )
        return {"hidden": hidden[0], "pooled": pooled[0]}

    def predict(
        self, noisy: Tensor, told: Tensor, rows: Sequence[Row], crops: Sequence[Crop]
    ) -> Tensor:
        """See `Hook.predict`."""
        del crops
        answer = self.denoiser(
            hidden_states=noisy,
            timestep=told,
            encoder_hidden_states=stacked(rows, "hidden"),
            pooled_projections=stacked(rows, "pooled"),
        )
        predicted: Tensor = answer.sample
        return predicted


class Flux(Hook):
    """``FluxPipeline``."""

    kohya = "lora_transformer"
    saved = 1.5

    def encode(self, text: str) -> Row:
        """See `Hook.encode`."""
        hidden, pooled, _ = self.pipeline.encode_prompt(text, device=self.pipeline.device)
        return {"hidden": hidden[0], "pooled": pooled[0]}

    def predict(
        self, noisy: Tensor, told: Tensor, rows: Sequence[Row], crops: Sequence[Crop]
    ) -> Tensor:
        """See `Hook.predict`."""
        del crops
        high, wide = noisy.shape[-2] // 2, noisy.shape[-1] // 2
        hidden = stacked(rows, "hidden")
        places = torch.zeros(high, wide, 3)
        places[..., 1] = torch.arange(high)[:, None]
        places[..., 2] = torch.arange(wide)
        guided = self.denoiser.config.guidance_embeds
        answer = self.denoiser(
            hidden_states=packed(noisy),
            timestep=told / TIMES,
            guidance=torch.full_like(told, GUIDANCE) if guided else None,
            pooled_projections=stacked(rows, "pooled"),
            encoder_hidden_states=hidden,
            txt_ids=torch.zeros(hidden.shape[1], 3).to(noisy),
            img_ids=places.view(-1, 3).to(noisy),
        )
        return unpacked(answer.sample, noisy)


class Sana(Hook):
    """``SanaPipeline``, which writes an instruction before every text but an empty one."""

    targets = ATTENTION
    saved = 2.6

    @property
    def multiple_px(self) -> int:
        """See `Hook.multiple_px`."""
        return self.latent_px * int(self.denoiser.config.patch_size)

    def encode(self, text: str) -> Row:
        """See `Hook.encode`."""
        takes = inspect.signature(self.pipeline.__call__).parameters
        hidden, mask, _, _ = self.pipeline.encode_prompt(
            text,
            do_classifier_free_guidance=False,
            device=self.pipeline.device,
            complex_human_instruction=(
                takes["complex_human_instruction"].default if text else None
            ),
        )
        return {"hidden": hidden[0], "mask": mask[0]}

    def predict(
        self, noisy: Tensor, told: Tensor, rows: Sequence[Row], crops: Sequence[Crop]
    ) -> Tensor:
        """See `Hook.predict`."""
        del crops
        answer = self.denoiser(
            noisy,
            encoder_hidden_states=stacked(rows, "hidden"),
            encoder_attention_mask=stacked(rows, "mask"),
            timestep=told * self.denoiser.config.timestep_scale,
        )
        predicted: Tensor = answer.sample
        return predicted


class QwenImage(Hook):
    """``QwenImagePipeline``; texts are of different lengths."""

    kohya = "unet"
    saved = 1.2

    def encode(self, text: str) -> Row:
        """See `Hook.encode`."""
        hidden, _ = self.pipeline.encode_prompt(text, device=self.pipeline.device)
        return {"hidden": hidden[0]}

    def empty(self) -> Row:
        """A space, which its guidance has in place of no text."""
        return self.encode(" ")

    def latents(self, pixels: Tensor) -> Tensor:
        """See `Hook.latents`; its VAE is one for videos."""
        return super().latents(pixels[:, :, None])[:, :, 0]

    def scaled(self, latents: Tensor) -> Tensor:
        """By the mean and the deviation of each channel."""
        config = self.pipeline.vae.config
        mean, std = (
            torch.tensor(values).to(latents).view(1, -1, 1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return (latents - mean) / std

    def predict(
        self, noisy: Tensor, told: Tensor, rows: Sequence[Row], crops: Sequence[Crop]
    ) -> Tensor:
        """See `Hook.predict`."""
        del crops
        texts = [row["hidden"] for row in rows]
        masks = [torch.ones(len(one), dtype=torch.long, device=one.device) for one in texts]
        mask = pad_sequence(masks, batch_first=True)
        shape = (1, noisy.shape[-2] // 2, noisy.shape[-1] // 2)
        answer = self.denoiser(
            hidden_states=packed(noisy),
            timestep=told / TIMES,
            guidance=(
                torch.full_like(told, GUIDANCE) if self.denoiser.config.guidance_embeds else None
            ),
            encoder_hidden_states=pad_sequence(texts, batch_first=True),
            encoder_hidden_states_mask=None if mask.all() else mask,
            img_shapes=[[shape]] * len(noisy),
        )
        return unpacked(answer.sample, noisy)


class ZImage(Hook):
    """``ZImagePipeline``; pictures and texts are lists, and times count from noise to data."""

    targets = ATTENTION
    kohya = "unet"
    saved = 4.0

    def encode(self, text: str) -> Row:
        """See `Hook.encode`."""
        found, _ = self.pipeline.encode_prompt(
            [text], device=self.pipeline.device, do_classifier_free_guidance=False
        )
        return {"hidden": found[0]}

    def predict(
        self, noisy: Tensor, told: Tensor, rows: Sequence[Row], crops: Sequence[Crop]
    ) -> Tensor:
        """See `Hook.predict`."""
        del crops
        answer = self.denoiser(
            list(noisy[:, :, None].unbind()),
            (TIMES - told) / TIMES,
            [row["hidden"] for row in rows],
        )
        return -torch.stack(list(answer.sample)).squeeze(2)
