"""The training of an ``AutoencoderKL``."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor
from torch.nn import functional

from jobs.kinds.sizes import parse_size
from jobs.trainings.architectures import VaeArchitecture
from jobs.trainings.requests import TrainRequest
from workers.training import precision, scenes
from workers.training.learner import Learner, Optimisation
from workers.training.losses import gradient_l1
from workers.training.sheets import sheet
from workers.training.trainer import Ground, Made, Numbers, Sample

SHOWN = 4
MEASURED = 512
"""Pictures that an evaluation reconstructs, and whose latents are measured at the end."""
AT_A_TIME = 16
LEAST_STD = 1e-4
"""Of a latent channel that says nothing: latents are divided by it."""
LEAST_MSE = 1e-10
"""A PSNR of 100 dB: of a reconstruction without any error it would not be finite."""


class VaeTraining:
    """See `workers.training.trainer.Training`."""

    watched = "l1"

    def __init__(self, ground: Ground) -> None:
        request = ground.request
        assert isinstance(request, TrainRequest)
        spec = request.architecture
        assert isinstance(spec, VaeArchitecture)
        assert request.steps
        self._ground, self._request, self._spec = ground, request, spec
        self._device = ground.device.type
        self._size_px, _ = parse_size(request.size)
        self._pixels = scenes.squares(ground.data, self._size_px)
        self._learnt, self._held_out = ground.data.divided(request.held_out, ground.seed)
        torch.manual_seed(ground.seed)  # of the weights
        self._vae = _autoencoder(spec, self._size_px).to(
            self._device, memory_format=torch.channels_last
        )
        self.steps = request.steps
        self.learners = {"autoencoder": Learner(self._vae, Optimisation.of(request))}
        self.state: dict[str, Any] = {}

    def resume(self, step: int) -> None:
        """See `Training.resume`."""

    def step(self, step: int) -> Numbers:
        """One of the optimiser."""
        assert self._request.batch
        passes = self._request.accumulate
        told = {"loss": 0.0, "l1": 0.0, "kl": 0.0}
        for _ in range(passes):
            chosen = torch.randint(len(self._learnt), (self._request.batch,))
            pixels = self._real(torch.tensor(self._learnt)[chosen])
            numbers = self._losses(pixels)
            (numbers["loss"] / passes).backward()
            for name, value in numbers.items():
                told[name] += value.item() / passes
        return {**told, **self.learners["autoencoder"].apply(step)}

    def evaluate(self, step: int) -> Numbers:
        """How near reconstructions are to pictures: L1 from 0 to 2, and PSNR in dB.

        Of those that are held out, or else of those that it learns from.
        """
        del step
        l1, psnr = [], []
        for pixels, made in self._reconstructed((self._held_out or self._learnt)[:MEASURED]):
            off = (made - pixels).flatten(1)
            l1 += off.abs().mean(1).tolist()
            # The peak's square is that of the range from -1 to 1.
            psnr += [
                10 * math.log10(4 / max(mse, LEAST_MSE)) for mse in off.square().mean(1).tolist()
            ]
        return {"l1": sum(l1) / len(l1), "psnr": sum(psnr) / len(psnr)}

    def samples(self, step: int) -> Iterator[Sample]:
        """Pictures, each with its reconstruction to its right."""
        del step
        chosen = (self._held_out or self._learnt)[:SHOWN]
        for pixels, made in self._reconstructed(chosen):
            for number, pair in zip(chosen, zip(pixels, made, strict=True), strict=True):
                caption = self._ground.data.pictures[number].caption
                yield Sample(caption, sheet(scenes.to_pictures(torch.stack(pair)), 2))

    def export(self, folder: Path) -> Made:
        """Write it as diffusers reads it, with mean and deviation of its latents."""
        with self.learners["autoencoder"].averaged():
            self._vae.register_to_config(**self._statistics())
            self._vae.save_pretrained(folder, safe_serialization=True)
        side = self._size_px
        return Made(
            family="vae",
            kind="vae",
            folder=folder,
            card={
                "default_size": f"{side}x{side}",
                "size_multiple_px": 2 ** (len(self._spec.widths) - 1),
                "max_side_px": 2 * side,
            },
        )

    def _losses(self, pixels: Tensor) -> dict[str, Tensor]:
        """The loss and its parts, for ``pixels`` (B, 3, H, W).

        The divergence is summed over a picture's latents and L1 is a mean, as in diffusers' own
        training script, so that usual weights mean what they mean there.
        """
        with self._computing():
            posterior = self._posterior(pixels)
            made = self._vae.decode(posterior.sample()).sample
        made = made.float()
        l1 = functional.l1_loss(made, pixels)
        kl = posterior.kl().mean()
        sharp = gradient_l1(made, pixels)
        loss = l1 + self._spec.gradient_weight * sharp + self._spec.kl_weight * kl
        return {"loss": loss, "l1": l1, "kl": kl}

    def _posterior(self, pixels: Tensor) -> Any:
        # In float32, since the divergence is a sum of many.
        moments = self._vae.encode(pixels).latent_dist.parameters.float()
        return DiagonalGaussianDistribution(moments)

    def _reconstructed(self, chosen: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Pictures and what becomes of them, some at a time; without noise on the latents."""
        with self.learners["autoencoder"].averaged(), torch.inference_mode():
            for some in torch.tensor(chosen).split(AT_A_TIME):
                self._ground.look()
                pixels = self._real(some)
                with self._computing():
                    made = self._vae.decode(self._posterior(pixels).mode()).sample
                yield pixels, made.float().clamp(-1, 1)

    def _statistics(self) -> dict[str, Any]:
        """Of the latents of what was learnt, by channel, in the terms of diffusers' pipelines.

        These divide ``latents_std`` by ``scaling_factor``, which alone is read by older ones.
        """
        latents = []
        with torch.inference_mode():
            for some in torch.tensor(self._learnt[:MEASURED]).split(AT_A_TIME):
                self._ground.look()
                with self._computing():
                    latents.append(self._posterior(self._real(some)).mode().cpu())
        found = torch.cat(latents)
        scale = 1 / max(float(found.std()), LEAST_STD)
        std = found.std((0, 2, 3)).clamp_min(LEAST_STD) * scale
        return {
            "scaling_factor": scale,
            "latents_mean": found.mean((0, 2, 3)).tolist(),
            "latents_std": std.tolist(),
        }

    def _real(self, chosen: Tensor) -> Tensor:
        return scenes.to_tensor(self._pixels[chosen.numpy()]).to(
            self._device, memory_format=torch.channels_last
        )

    def _computing(self) -> AbstractContextManager[Any]:
        return precision.autocast(self._request.precision, self._ground.device)


def _autoencoder(spec: VaeArchitecture, size_px: int) -> AutoencoderKL:
    levels = len(spec.widths)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=spec.widths,
        latent_channels=spec.latent_channels,
        # Four channels or more in a group: norms of single ones would take out what they say.
        norm_num_groups=max(math.gcd(128, *spec.widths) // 4, 1),
        sample_size=size_px,
    )
