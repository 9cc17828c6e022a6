"""The training of a LoRA for a diffusion model, DreamBooth's way (Ruiz et al. 2022).

What the denoiser is told of, latents and texts, is encoded once at the beginning, and again where
a training goes on: nothing of it is in a checkpoint. So are the pictures of the prior: the base
makes them itself, from seeds that depend on the request's alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jobs.kinds.sizes import parse_size
from jobs.kinds.values import derived_seed
from jobs.registry import adapters
from jobs.trainings.requests import FinetuneRequest, Prior
from storage.models import ADAPTER
from workers.families.diffusion.finetune import base as bases
from workers.families.diffusion.finetune import export, preflight, showing
from workers.families.diffusion.finetune.hooks.hook import Crop
from workers.families.diffusion.finetune.pictures import (
    Bucket,
    Learning,
    Learnt,
    drawn,
    encoded_picture,
    learning_of,
    sizes_of,
)
from workers.training import draws, precision
from workers.training.learner import Learner, Optimisation
from workers.training.trainer import Ground, Made, Numbers, Sample, TrainingError

LORA = "lora"
"""The learner's name."""
TIMES = 4
"""Times at which each held-out picture is evaluated."""
_TRIES = 3
"""A model's own safety checker may reject pictures of the prior: so many times as many are made."""


class DiffusionLora:
    """See `workers.training.trainer.Training`."""

    watched = "validation_loss"

    def __init__(self, ground: Ground) -> None:
        request = ground.request
        assert isinstance(request, FinetuneRequest)
        assert request.size
        assert request.steps
        assert ground.base
        assert ground.card
        self._ground, self._request, self._card = ground, request, ground.card
        preflight.check(ground.base, request, ground.device)
        torch.manual_seed(derived_seed("lora", str(ground.seed)))  # of its first weights
        self._base = bases.load(ground.base, request, ground.device)
        self._hook = self._base.hook
        self._noising = self._hook.noising(request.min_snr_gamma)
        self._size = parse_size(request.size)
        self._sizes = sizes_of(self._size, self._hook.multiple_px, several=request.buckets)
        self.steps = request.steps
        self.state: dict[str, Any] = {}
        self.learners = {LORA: Learner(self._base.lora, Optimisation.of(request))}
        self._learning: Learning | None = None
        self._prior: Bucket = []

    def resume(self, step: int) -> None:
        """Encode the dataset, and have the base make the pictures of the prior."""
        del step
        self._base.wake()
        prior = self._request.prior
        self._learning = learning_of(
            self._hook,
            self._ground.data,
            self._sizes,
            self._ground.data.divided(self._request.held_out, self._ground.seed),
            device=self._base.device,
            more=[prior.prompt] if prior else [],
            look=self._ground.look,
        )
        if prior:
            self._prior = self._made_prior(prior)
        self._base.rest()

    def step(self, step: int) -> Numbers:
        """See `Training.step`; the prior's pictures have passes of their own."""
        assert self._learning
        request = self._request
        losses, prior_losses = [], []
        for _ in range(request.accumulate):
            loss = self._pass(self._learning.drawn(request.batch or 1))
            (loss / request.accumulate).backward()
            losses.append(float(loss.detach()))
            if request.prior:
                loss = self._pass(drawn([self._prior], request.batch or 1))
                (request.prior.weight * loss / request.accumulate).backward()
                prior_losses.append(float(loss.detach()))
        numbers = {"loss": _mean(losses), **self.learners[LORA].apply(step)}
        return numbers | ({"prior_loss": _mean(prior_losses)} if prior_losses else {})

    def evaluate(self, step: int) -> Numbers:
        """The loss on held-out pictures, with the same noise and times at each evaluation."""
        del step
        assert self._learning
        if not self._learning.held_out:
            return {}
        losses = []
        with torch.no_grad(), self.learners[LORA].averaged():
            for number, one in enumerate(self._learning.held_out):
                self._ground.look()
                draws.begin(self._ground.seed, "held out", number)
                times = self._noising.spread(TIMES)
                losses += [float(self._loss([one], times[n : n + 1], None)) for n in range(TIMES)]
        return {"validation_loss": _mean(losses)}

    def samples(self, step: int) -> Iterator[Sample]:
        """A picture of each of the request's prompts, from the same seeds at each time."""
        del step
        self._base.wake()
        seed = derived_seed("samples", str(self._ground.seed))
        with self.learners[LORA].averaged(), self._computing():
            for number, prompt in enumerate(self._request.sample_prompts):
                self._ground.look()
                for picture in self._pictures(prompt, seed + number, 1):
                    if picture:
                        yield Sample(prompt, picture)
        self._base.rest()

    def export(self, folder: Path) -> Made:
        """The adapter's folder, and kohya's file beside it, which is not registered.

        Raises:
            TrainingError: no model would take it; that would be an error of ours.
        """
        adapter, beside = folder / "adapter", folder / "beside"
        origin = export.Origin(self._request, self._ground.data, self._card)
        with self.learners[LORA].averaged():
            export.write(self._base, origin, adapter, beside)
        files = {path.name: path for path in adapter.iterdir()}
        details, problems = adapters.examine(files)
        if problems:
            raise TrainingError(f"what was trained is no adapter: {problems[0]}")
        return Made(
            family="diffusion",
            kind=ADAPTER,
            folder=adapter,
            details=details,
            shown=(export.WEIGHTS,),
            extra=tuple(sorted(beside.iterdir())),
            facts={"trigger": self._ground.data.trigger} if self._ground.data.trigger else {},
        )

    def _pass(self, batch: Sequence[Learnt]) -> Tensor:
        times = self._noising.draw(len(batch))
        dropped = torch.rand(len(batch)) < self._request.caption_dropout
        return self._loss(batch, times, dropped)

    def _loss(self, batch: Sequence[Learnt], times: Tensor, dropped: Tensor | None) -> Tensor:
        """Of a batch of one size; its noise is drawn on the CPU, so that devices draw the same."""
        assert self._learning
        clean = torch.stack([one.latents for one in batch])
        noise = torch.randn(clean.shape)
        mask = torch.stack([one.mask for one in batch])
        clean, noise, mask, times = (
            one.to(self._base.device) for one in (clean, noise, mask, times)
        )
        left_out = torch.zeros(len(batch), dtype=torch.bool) if dropped is None else dropped
        rows = [
            {name: one.to(self._base.device) for name, one in row.items()}
            for row in self._learning.rows_of(batch, left_out)
        ]
        with self._computing():
            predicted = self._hook.predict(
                self._noising.mix(clean, noise, times),
                self._noising.told(times),
                rows,
                [one.crop for one in batch],
            )
        errors = (predicted.float() - self._noising.target(clean, noise, times)).square() * mask
        return (errors.mean((1, 2, 3)) * self._noising.weights(times)).mean()

    def _made_prior(self, prior: Prior) -> Bucket:
        """Pictures of the class, by the base without the LoRA.

        Raises:
            TrainingError: its safety checker rejects too many.
        """
        seed = derived_seed("prior", str(self._ground.seed))
        width, height = self._size
        crop = Crop((height, width), (0, 0), (height, width))
        found: Bucket = []
        denoiser = self._hook.denoiser
        denoiser.disable_adapters()
        with self._computing():
            for picture in self._pictures(prior.prompt, seed, _TRIES * prior.pictures):
                self._ground.look()
                if picture:
                    latents = encoded_picture(self._hook, picture, self._base.device)
                    mask = torch.ones(1, *latents.shape[-2:])
                    found.append(Learnt(prior.prompt, latents, mask, crop))
                if len(found) == prior.pictures:
                    break
        denoiser.enable_adapters()
        if len(found) < prior.pictures:
            raise TrainingError(
                f"prior: the model's safety checker rejects most pictures of {prior.prompt!r}"
            )
        return found

    def _pictures(self, prompt: str, seed: int, count: int) -> Iterator[Any]:
        return showing.pictures(
            self._base,
            self._card,
            prompt,
            seed=seed,
            count=count,
            size=self._size,
            at_a_time=self._request.batch or 1,
        )

    def _computing(self) -> AbstractContextManager[None]:
        return precision.autocast(self._request.precision, self._ground.device)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
