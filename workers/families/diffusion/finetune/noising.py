"""How latents become noisy in a training, what is to be predicted of them, and what it weighs."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_snr
from torch import Tensor

from jobs.trainings.bases import is_flow

TIMES = 1000
"""Denoisers are told of times in [0, 1] as this many steps."""


class Noising(Protocol):
    """One way of mixing latents (B, C, H, W) with noise of their shape, by times (B,)."""

    def draw(self, count: int) -> Tensor:
        """Times of a step, drawn from torch's global generator on the CPU."""

    def spread(self, count: int) -> Tensor:
        """Times over the whole range, always the same, for evaluations."""

    def mix(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """The noisy latents."""

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """What is to be predicted."""

    def told(self, times: Tensor) -> Tensor:
        """What the denoiser is told of the times, from 0 to `TIMES`."""

    def weights(self, times: Tensor) -> Tensor:
        """What each picture's error weighs (B,)."""


class Flow:
    """Straight paths from data to noise (Lipman et al. 2022, arXiv:2210.02747).

    Times are logit-normal, and shifted as the base was trained (Esser et al. 2024,
    arXiv:2403.03206).
    """

    def __init__(self, shift: float) -> None:
        self._shift = shift

    def draw(self, count: int) -> Tensor:
        """See `Noising.draw`."""
        return self._shifted(
            compute_density_for_timestep_sampling(
                "logit_normal", count, logit_mean=0.0, logit_std=1.0
            )
        )

    def spread(self, count: int) -> Tensor:
        """See `Noising.spread`."""
        return self._shifted((torch.arange(count) + 0.5) / count)

    def mix(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """See `Noising.mix`."""
        return torch.lerp(latents, noise, times.to(latents).view(-1, 1, 1, 1))

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """The velocity."""
        del times
        return noise - latents

    def told(self, times: Tensor) -> Tensor:
        """See `Noising.told`."""
        return times * TIMES

    def weights(self, times: Tensor) -> Tensor:
        """All the same."""
        return torch.ones_like(times)

    def _shifted(self, times: Tensor) -> Tensor:
        return self._shift * times / (1 + (self._shift - 1) * times)


class Diffusion:
    """The noise schedule of the base (Ho et al. 2020), whose denoiser predicts noise or velocity.

    With ``gamma``, errors weigh ``min(SNR, gamma)`` in terms of the clean latents (Hang et al.
    2023, arXiv:2303.09556): divided by the SNR for noise, by SNR + 1 for velocity.
    """

    def __init__(self, config: Mapping[str, Any], gamma: float | None) -> None:
        self._scheduler = DDPMScheduler.from_config(config)
        self._gamma = gamma
        self._is_velocity = self._scheduler.config.prediction_type == "v_prediction"

    def draw(self, count: int) -> Tensor:
        """See `Noising.draw`."""
        return torch.randint(len(self._scheduler.alphas_cumprod), (count,))

    def spread(self, count: int) -> Tensor:
        """See `Noising.spread`."""
        return ((torch.arange(count) + 0.5) / count * len(self._scheduler.alphas_cumprod)).long()

    def mix(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """See `Noising.mix`."""
        noisy: Tensor = self._scheduler.add_noise(latents, noise, times)
        return noisy

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Noise, or velocity (Salimans and Ho 2022, arXiv:2202.00512)."""
        if not self._is_velocity:
            return noise
        velocity: Tensor = self._scheduler.get_velocity(latents, noise, times)
        return velocity

    def told(self, times: Tensor) -> Tensor:
        """See `Noising.told`."""
        return times

    def weights(self, times: Tensor) -> Tensor:
        """See the class."""
        if self._gamma is None:
            return torch.ones(len(times), device=times.device)
        snr: Tensor = compute_snr(self._scheduler, times)
        # Where a schedule ends in pure noise, the SNR is 0, which only velocities bear.
        return snr.clamp(max=self._gamma) / (snr + 1 if self._is_velocity else snr.clamp(min=1e-8))


def noising_of(scheduler: Any, gamma: float | None, *, flow: bool = False) -> Noising:
    """That of a base with that scheduler; ``flow``: its class is for flow matching only.

    Raises:
        ValueError: it is one that no denoiser is trained with here.
    """
    config = dict(scheduler.config) | {"_class_name": type(scheduler).__name__}
    if flow or is_flow(config):
        if gamma is not None:
            raise ValueError(
                "min_snr_gamma: the model is trained by flow matching, which has no such weights: "
                "leave it out"
            )
        # A shift that depends on a picture's size is for sampling; FLUX is trained without.
        is_dynamic = bool(config.get("use_dynamic_shifting"))
        shift = config.get("shift") or config.get("flow_shift") or 1.0
        return Flow(1.0 if is_dynamic else float(shift))
    kind = config.get("prediction_type", "epsilon")
    if kind not in ("epsilon", "v_prediction"):
        raise ValueError(
            f"model: its denoiser predicts {kind!r}; epsilon or v_prediction is needed"
        )
    return Diffusion(config, gamma)
