"""The training of a text-to-image pipeline: a judge, then the autoencoder, then the denoiser.

The steps of the three follow each other. A judge, where one is wanted, learns first, from pictures
as they are; the denoiser begins only if it recognises enough in what the autoencoder makes of them.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from jobs.kinds.sizes import parse_size
from jobs.kinds.values import derived_seed
from jobs.trainings.architectures import TextToImageArchitecture
from jobs.trainings.requests import TrainRequest
from workers.families.diffusion.scratch import autoencoder, denoiser, sampling, text
from workers.families.diffusion.scratch.sampling import Score
from workers.training import judges, precision, scenes
from workers.training.judges import Judge
from workers.training.learner import Learner, Optimisation, Rate
from workers.training.scenes import Bank, Composed, Scenes, Shown
from workers.training.trainer import Ground, Made, Numbers, Sample, TrainingError

_log = logging.getLogger(__name__)

T = TypeVar("T")

Phase = Literal["judge", "autoencoder", "denoiser"]

PICTURES = 4096
"""Pictures that judge and autoencoder draw from, before they get others."""
RENEW = 1500
"""Steps after which they do."""
WARMUP = 100
"""Steps of judge and autoencoder in which the learning rate rises."""
ENCODED = 64
"""Pictures that the autoencoder encodes at a time."""
JUDGED_PX = 64
"""The judge looks at smaller pictures."""
JUDGE_RATE = 2e-3
TESTED = 512
"""Pictures that the gate is about."""


class TextToImage:
    """See `workers.training.trainer.Training`."""

    watched = None

    def __init__(self, ground: Ground) -> None:
        request = ground.request
        assert isinstance(request, TrainRequest)
        assert isinstance(request.architecture, TextToImageArchitecture)
        assert request.steps
        self._ground, self._request, self._spec = ground, request, request.architecture
        self._size_px = _side(request)
        self._device = ground.device.type
        self._scenes = self._found_scenes()
        self.state: dict[str, Any] = {}
        torch.manual_seed(ground.seed)  # of the weights
        vae = autoencoder.make(self._spec.autoencoder)
        self._tokenizer = text.tokenizer_of(self._all_captions(), self._spec.text_encoder)
        self._vae = self._placed(vae)
        self._parts = self._placed(
            nn.ModuleDict(
                {
                    "unet": denoiser.make(
                        self._spec.denoiser,
                        self._spec.text_encoder,
                        self._spec.autoencoder,
                        self._size_px,
                    ),
                    "text_encoder": text.encoder_of(self._tokenizer, self._spec.text_encoder),
                }
            )
        )
        self._lengths: dict[Phase, int] = {
            "judge": self._spec.judge.steps if self._spec.judge else 0,
            "autoencoder": self._spec.autoencoder.steps,
            "denoiser": request.steps,
        }
        self.steps = sum(self._lengths.values())
        self.learners = {
            "autoencoder": Learner(
                self._vae, self._brief(self._spec.autoencoder.learning_rate, "autoencoder")
            ),
            "denoiser": Learner(self._parts, Optimisation.of(request)),
        }
        self._judge: Judge | None = None
        if self._spec.judge:
            judge = Judge(self._scenes.names, min(self._size_px, JUDGED_PX))
            self._judge = self._placed(judge.eval())
            self.learners["judge"] = Learner(self._judge, self._brief(JUDGE_RATE, "judge"))
        self._bank: tuple[tuple[str, int], Any] | None = None

    def resume(self, step: int) -> None:
        """See `Training.resume`."""
        del step  # banks are made when they are needed

    def step(self, step: int) -> Numbers:
        """See `Training.step`."""
        phase, own = self._phase(step)
        match phase:
            case "judge":
                return self._judge_step(own)
            case "autoencoder":
                return self._autoencoder_step(own)
            case "denoiser":
                if "gate" not in self.state:
                    self.state["gate"] = self._pass_gate()
                return self._denoiser_step(own)

    def evaluate(self, step: int) -> Numbers:
        """What the judge recognises: in pictures, in reconstructed ones, or in generated ones."""
        phase, _ = self._phase(max(step - 1, 0))
        if phase == "judge":
            return {"items_in_pictures": self._recognised(as_they_are=True)}
        if phase == "autoencoder":
            return {"items_in_reconstructed": self._recognised()} if self._judge else {}
        score = self._score(sampling.EVALUATED)
        return score.numbers() if score else {}

    def samples(self, step: int) -> Iterator[Sample]:
        """Pictures of the request's prompts; before there is a denoiser, reconstructed ones."""
        phase, _ = self._phase(max(step - 1, 0))
        if phase == "judge":
            return
        if phase == "autoencoder":
            bank = self._tests
            chosen = np.arange(len(self._request.sample_prompts) or 4)
            for number, picture in zip(chosen, self._reconstructed(bank, chosen), strict=True):
                yield Sample(bank.captions[int(number)], picture)
            return
        prompts = self._request.sample_prompts
        with self._averaged():
            pictures = self._sampler().pictures(prompts, self._guidance())
        for prompt, picture in zip(prompts, pictures, strict=True):
            yield Sample(prompt, picture)

    def export(self, folder: Path) -> Made:
        """Write the pipeline in half precision: as bfloat16 it would lose more than it saves."""
        guidance, scores = self._best_guidance()
        with self._averaged():
            pipeline = self._pipeline()
            for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
                part.to("cpu", torch.float16)
            pipeline.save_pretrained(folder, safe_serialization=True)
        facts = {"gate": self.state.get("gate"), "by_guidance": scores}
        return Made(
            family="diffusion",
            kind="image",
            folder=folder,
            card={
                "default_size": f"{self._size_px}x{self._size_px}",
                "default_steps": sampling.STEPS,
                "default_guidance": guidance,
                "max_side_px": self._size_px,
                "size_multiple_px": 8,
            },
            details={"sizes": [f"{self._size_px}x{self._size_px}"]},
            facts={name: value for name, value in facts.items() if value is not None},
        )

    # What is learnt at a step.

    def _judge_step(self, step: int) -> Numbers:
        assert self._judge
        assert self._spec.judge
        bank = self._pictures(step, "judge", patterns=False)
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        chosen = rng.choice(len(bank.items), self._spec.judge.batch)
        wanted = torch.from_numpy(bank.items[chosen]).to(self._device)
        self._judge.train()
        with self._computing():
            seen = _weathered(self._laid_out(bank.batch(chosen)))
            loss = functional.cross_entropy(self._judge(seen).float(), wanted)
        learnt = self._learn("judge", loss, step)
        self._judge.eval()
        return learnt

    def _autoencoder_step(self, step: int) -> Numbers:
        spec = self._spec.autoencoder
        bank = self._pictures(step, "autoencoder", patterns=True)
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        pixels = bank.batch(rng.choice(len(bank.items), spec.batch))
        if step < spec.whole_from * spec.steps and spec.crop_px < self._size_px:
            pixels = _crops(rng, pixels, spec.crop_px)
        with self._computing():
            loss, l1 = autoencoder.loss(self._vae, self._laid_out(pixels), spec)
        return {**self._learn("autoencoder", loss, step), "l1": l1.item()}

    def _denoiser_step(self, step: int) -> Numbers:
        latents, tokens = self._latents(step)
        batch = self._request.batch or 1
        losses = []
        for _ in range(self._request.accumulate):
            chosen = torch.randint(len(latents), (batch,))
            ids = tokens[chosen]
            dropped = torch.rand(batch) < self._spec.caption_dropout
            ids[dropped] = self._empty
            with self._computing():
                hidden = self._parts["text_encoder"](ids.to(self._device)).last_hidden_state
                given = self._laid_out(latents[chosen].float())
                loss = denoiser.loss(self._parts["unet"], given, hidden)
            (loss / self._request.accumulate).backward()
            losses.append(loss.item())
        return {"loss": float(np.mean(losses)), **self.learners["denoiser"].apply(step)}

    def _learn(self, name: str, loss: Tensor, step: int) -> Numbers:
        loss.backward()
        return {"loss": loss.item(), **self.learners[name].apply(step)}

    # What it is learnt from.

    def _pictures(self, step: int, what: str, *, patterns: bool) -> Bank:
        """The pictures of a step; not kept in a checkpoint, since they can be made again."""
        number = step // RENEW

        def make() -> Bank:
            count = max(PICTURES, len(self._scenes.names))
            return self._drawn(count, what, number, patterns=patterns)

        return self._kept(what, number, make)

    def _latents(self, step: int) -> tuple[Tensor, Tensor]:
        """Latents (N, C, H, W) in half precision, of variance 1, and their captions' tokens."""
        is_plain = bool(
            self._spec.compose and step < self._spec.compose.plain_until * self._lengths["denoiser"]
        )
        number = step * self._spec.banks // self._lengths["denoiser"]

        def make() -> tuple[Tensor, Tensor]:
            bank = self._drawn(self._spec.bank, "denoiser", number, plain=is_plain)
            scale = self.state["scaling_factor"]
            parts = [
                (self._encoded(bank, start) * scale).half()
                for start in range(0, len(bank.captions), ENCODED)
            ]
            return torch.cat(parts), denoiser.tokens_of(self._tokenizer, bank.captions)

        # Captions change at a step of their own.
        return self._kept("latents", 2 * number + (not is_plain), make)

    def _encoded(self, bank: Bank, start: int) -> Tensor:
        self._ground.look()
        chosen = np.arange(start, min(start + ENCODED, len(bank.captions)))
        with torch.inference_mode(), self._computing():
            return self._vae.encoder(self._laid_out(bank.batch(chosen))).float().cpu()

    def _kept(self, what: str, number: int, make: Callable[[], T]) -> T:
        if self._bank is None or self._bank[0] != (what, number):
            self._bank = None  # its memory is needed for the next one
            self._bank = (what, number), make()
        found: T = self._bank[1]
        return found

    def _drawn(
        self, count: int, what: str, number: int, *, plain: bool = True, patterns: bool = False
    ) -> Bank:
        seed = derived_seed(str(self._ground.seed), what, str(number))
        return scenes.bank(
            self._scenes, count, seed, plain=plain, patterns=patterns, look=self._ground.look
        )

    def _found_scenes(self) -> Scenes:
        data = self._ground.data
        if self._spec.compose:
            return Composed(data, self._spec.compose, self._size_px, self._ground.seed)
        return Shown(data, self._size_px)

    def _all_captions(self) -> list[str]:
        """Captions of all items in all forms, for the tokenizer."""
        rng = np.random.default_rng(self._ground.seed)
        count = max(4 * len(self._scenes.names), 1024)
        return [self._scenes.caption(rng, number) for number in range(count)]

    # Whether it can be recognised.

    def _pass_gate(self) -> float | None:
        """The share of items recognised in reconstructed pictures, and the latents' scale."""
        bank = self._tests
        pixels = self._laid_out(bank.batch(np.arange(min(len(bank.items), ENCODED))))
        self.state["scaling_factor"] = autoencoder.scale_of(self._vae, pixels)
        if not self._judge or not self._spec.judge:
            return None
        found = self._recognised()
        if found < self._spec.judge.gate:
            raise TrainingError(
                f"the judge recognises {found:.1%} of the items in pictures that the autoencoder "
                f"has reconstructed, and architecture.judge.gate is {self._spec.judge.gate:.0%}: "
                "give the autoencoder more steps or latent channels"
            )
        return found

    def _recognised(self, *, as_they_are: bool = False) -> float:
        assert self._judge
        bank = self._tests
        right = 0
        for start in range(0, len(bank.items), ENCODED):
            chosen = np.arange(start, min(start + ENCODED, len(bank.items)))
            if as_they_are:
                pixels = bank.batch(chosen)
            else:
                made = self._reconstructed(bank, chosen)
                pixels = judges.as_tensor(made)
            items = self._judge.items(pixels.to(self._device)).cpu().numpy()
            right += int((items == bank.items[chosen]).sum())
        return right / len(bank.items)

    @cached_property
    def _tests(self) -> Bank:
        """Pictures that nothing learns from."""
        return self._drawn(TESTED, "test", 0)

    def _reconstructed(self, bank: Bank, chosen: Any) -> Sequence[Any]:
        with torch.inference_mode():
            pixels = self._laid_out(bank.batch(chosen))
            return scenes.to_pictures(self._vae.decoder(self._vae.encoder(pixels)))

    def _score(self, count: int, guidance: float | None = None) -> Score | None:
        if not self._judge or not self._spec.compose:
            return None
        with self._averaged():
            return self._sampler().score(
                self._judge, self._scenes.names, count, guidance or self._guidance()
            )

    def _best_guidance(self) -> tuple[float, dict[str, float]]:
        """The one of the request's with which the judge recognises most."""
        given = self._spec.guidance
        if len(given) == 1 or not self._judge or not self._spec.compose:
            return given[0], {}
        scores = {}
        for guidance in given:
            score = self._score(sampling.COMPARED, guidance)
            assert score
            scores[guidance] = score.items
        best = max(given, key=lambda one: scores[one])
        return best, {f"{guidance:g}": score for guidance, score in scores.items()}

    def _guidance(self) -> float:
        return self._spec.guidance[len(self._spec.guidance) // 2]

    # Its parts.

    def _sampler(self) -> "sampling.Sampler":
        return sampling.Sampler(
            self._pipeline(), self._size_px, self._ground.seed, self._computing, self._ground.look
        )

    def _pipeline(self) -> Any:
        factor = self.state.get("scaling_factor", 1.0)
        self._vae.register_to_config(scaling_factor=factor)
        return denoiser.pipeline_of(
            self._vae, self._tokenizer, self._parts["text_encoder"], self._parts["unet"]
        )

    def _averaged(self) -> AbstractContextManager[None]:
        return self.learners["denoiser"].averaged()

    @cached_property
    def _empty(self) -> Tensor:
        return denoiser.tokens_of(self._tokenizer, [""])[0]

    def _phase(self, step: int) -> tuple[Phase, int]:
        """What is learnt at a step, and which of its own steps that is."""
        for phase, length in self._lengths.items():
            if step < length:
                return phase, step
            step -= length
        return "denoiser", self._lengths["denoiser"] - 1

    def _brief(self, peak: float, phase: Phase) -> Optimisation:
        length = self._lengths[phase]
        rate = Rate(peak, "cosine", min(WARMUP, length // 10), length)
        return Optimisation.of(self._request, rate=rate, ema=None)

    def _computing(self) -> AbstractContextManager[None]:
        return precision.autocast(self._request.precision, self._ground.device)

    def _placed(self, module: Any) -> Any:
        return module.to(self._device, memory_format=torch.channels_last)

    def _laid_out(self, values: Tensor) -> Tensor:
        return values.to(self._device, memory_format=torch.channels_last)


def _weathered(pixels: Tensor) -> Tensor:
    """Blurred, noisy and of another contrast, each a little: what a judge shall see through."""
    blur, noise, contrast = torch.rand(3).tolist()
    side = pixels.shape[-1]
    small = max(round(side * (1 - 0.6 * blur)), 1)
    low = functional.interpolate(pixels, (small, small), mode="bilinear", antialias=True)
    soft = functional.interpolate(low, (side, side), mode="bilinear")
    return soft * (0.8 + 0.4 * contrast) + 0.1 * noise * torch.randn_like(soft)


def _crops(rng: np.random.Generator, pixels: Tensor, side: int) -> Tensor:
    """A square out of each picture (B, C, H, W)."""
    room = pixels.shape[-1] - side + 1
    places = rng.integers(room, size=(len(pixels), 2))
    return torch.stack(
        [
            one[:, top : top + side, left : left + side]
            for one, (top, left) in zip(pixels, places.tolist(), strict=True)
        ]
    )


def _side(request: TrainRequest) -> int:
    width, height = parse_size(request.size)
    assert width == height, "checked when it was submitted"
    return width
