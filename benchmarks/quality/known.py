"""A known distribution: pictures of a few motifs with noise on them.

Its best possible denoiser is a formula. Sampling from it goes as with a trained model, from noise
to a motif, so that differences mean something.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image

from benchmarks.quality.rows import Pictures, Row, compared
from workers.families.diffusion.quality import Sparing
from workers.inputs import sample

SIDE_PX = 32
NOISE = 0.15
"""Standard deviation around each motif, of pictures from -1 to 1."""
STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SAMPLERS: Mapping[str, tuple[Callable[[], Any], int]] = {
    "euler, a flow (as FLUX, SD3)": (
        lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        28,
    ),
    "dpm++-2m, noise (as SDXL)": (
        lambda: diffusers.DPMSolverMultistepScheduler(**STABLE_DIFFUSION, steps_offset=1),
        30,
    ),
    "euler, noise (as SDXL)": (
        lambda: diffusers.EulerDiscreteScheduler(**STABLE_DIFFUSION, steps_offset=1),
        30,
    ),
}


def motifs() -> torch.Tensor:
    """96 pictures: parts of two samples, mirrored, with their colours exchanged; (96, pixels)."""
    found = []
    for name, part, mirrored, turn in itertools.product(
        ("mug.png", "apple.png"), range(8), (False, True), range(3)
    ):
        with Image.open(BytesIO(sample(name).data)) as image:
            side = int(min(image.size) * (0.6 + 0.05 * part))
            start = part * 7 % (min(image.size) - side + 1)
            box = (start, start, start + side, start + side)
            cut = image.convert("RGB").crop(box).resize((SIDE_PX, SIDE_PX))
        pixels = np.asarray(cut, dtype=np.float64)[:, :: -1 if mirrored else 1]
        found.append(np.roll(pixels, turn, axis=2).transpose(2, 0, 1).reshape(-1) / 127.5 - 1)
    return torch.tensor(np.array(found))


class KnownDenoiser(torch.nn.Module):  # type: ignore[misc]  # mypy does not follow torch
    """The best denoiser there is of normal distributions around motifs: their posterior mean."""

    def __init__(self, scheduler: Any) -> None:
        super().__init__()
        self._scheduler = scheduler
        self._motifs = motifs()
        self.evaluations = 0

    def forward(self, noisy: torch.Tensor, step: int) -> torch.Tensor:
        """The noise, or the flow, in ``noisy`` (pictures, pixels), as the scheduler wants it."""
        self.evaluations += 1
        if isinstance(self._scheduler, diffusers.FlowMatchEulerDiscreteScheduler):
            sigma = float(self._scheduler.sigmas[step])
            return (noisy - self._mean(noisy, 1 - sigma, sigma)) / sigma
        kept = np.interp(
            float(self._scheduler.timesteps[step]),
            np.arange(len(self._scheduler.alphas_cumprod)),
            self._scheduler.alphas_cumprod.numpy(),
        )
        signal, sigma = math.sqrt(kept), math.sqrt(1 - kept)
        return (noisy - signal * self._mean(noisy, signal, sigma)) / sigma

    def _mean(self, noisy: torch.Tensor, signal: float, sigma: float) -> torch.Tensor:
        variance = (signal * NOISE) ** 2 + sigma**2
        likelihood = -(torch.cdist(noisy, signal * self._motifs) ** 2) / (2 * variance)
        motif = torch.softmax(likelihood, dim=1) @ self._motifs
        return motif + signal * NOISE**2 / variance * (noisy - signal * motif)


def sampled(sampler: str, steps: int, images: int, *, estimates: bool) -> tuple[Pictures, int]:
    """Pictures of the known distribution, from 0 to 1, and how many evaluations they took."""
    scheduler = SAMPLERS[sampler][0]()
    scheduler.set_timesteps(steps)
    known = KnownDenoiser(scheduler)
    sparing = Sparing(known) if estimates else None
    pixels = 3 * SIDE_PX**2
    noise = torch.randn(images, pixels, generator=torch.Generator().manual_seed(1))
    noisy = noise.double() * getattr(scheduler, "init_noise_sigma", 1.0)
    total = len(scheduler.timesteps)
    for step, timestep in enumerate(scheduler.timesteps):
        scaled = getattr(scheduler, "scale_model_input", lambda x, _: x)(noisy, timestep)
        answer = (sparing or known)(scaled, step)
        noisy = scheduler.step(answer, timestep, noisy, return_dict=False)[0].double()
        if sparing is not None:
            sparing.end_step(step + 1, total)
    return ((noisy.clamp(-1, 1) + 1) / 2).numpy(), known.evaluations


def of_known_distribution(images: int) -> Iterator[Row]:
    """Both levels, and as few evaluations had by fewer steps alone."""
    for sampler, (_, steps) in SAMPLERS.items():
        exact, all_of_them = sampled(sampler, steps, images, estimates=False)
        for way, fewer, estimates in (("high", steps, True), ("draft", steps // 2, True)):
            made, evaluations = sampled(sampler, fewer, images, estimates=estimates)
            work = evaluations / all_of_them
            yield compared(sampler, way, made, exact, work)
            made, _ = sampled(sampler, evaluations, images, estimates=False)
            yield compared(sampler, f"{evaluations} steps instead", made, exact, work)
