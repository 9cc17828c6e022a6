"""The training of a GAN: the discriminator and the generator learn by turns."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from jobs.kinds.sizes import parse_size
from jobs.kinds.values import derived_seed
from jobs.trainings.architectures import GanArchitecture
from jobs.trainings.labels import labels_of
from jobs.trainings.requests import TrainRequest
from workers.families.gan import losses
from workers.families.gan.load import CONFIG, DISCRIMINATOR, GENERATOR
from workers.families.gan.model import Discriminator, GanConfig, Generator
from workers.training import frechet, scenes
from workers.training.features import RandomNetwork
from workers.training.learner import Learner, Optimisation
from workers.training.sheets import sheet
from workers.training.trainer import Ground, Made, Numbers, Sample

BETAS = (0.5, 0.999)
"""Adam's usual 0.9 let the two swing (Radford et al. 2015, section 4)."""
INITIAL_STD = 0.02
"""Of the generator's weights (the same section); the discriminator's are normed anyway."""
SHOWN = 16
COLUMNS = 4
EVALUATED = 512
"""Pictures of each sort that are compared."""
AT_A_TIME = 64
STANDING = 16
"""Batches from which the batch norm of a finished generator has its statistics."""


class GanTraining:
    """See `workers.training.trainer.Training`.

    In float32 on every device, as the family loads it.
    """

    watched = "frechet"

    def __init__(self, ground: Ground) -> None:
        request = ground.request
        assert isinstance(request, TrainRequest)
        spec = request.architecture
        assert isinstance(spec, GanArchitecture)
        assert request.steps
        self._ground, self._request, self._spec = ground, request, spec
        self._device = ground.device.type
        size_px, _ = parse_size(request.size)
        self._pixels = scenes.squares(ground.data, size_px)
        captions = [picture.caption for picture in ground.data.pictures]
        names = labels_of(captions) if spec.labels else ()
        self._config = GanConfig.model_validate(
            {
                "size_px": size_px,
                "latent_size": spec.latent,
                "channels": spec.width,
                "class_names": names,
            }
        )
        self._classes = torch.tensor([names.index(one) for one in captions]) if names else None
        self._learnt, self._held_out = ground.data.divided(request.held_out, ground.seed)
        torch.manual_seed(ground.seed)  # of the weights
        self._generator = _generator(self._config).to(self._device)
        self._discriminator = Discriminator(self._config).to(self._device)
        how = Optimisation.of(request, betas=BETAS)
        self.steps = request.steps
        self.learners = {
            "generator": Learner(self._generator, how),
            "discriminator": Learner(
                self._discriminator, Optimisation.of(request, betas=BETAS, ema=None)
            ),
        }
        self.state: dict[str, Any] = {}
        self._eyes = RandomNetwork().to(self._device)

    def resume(self, step: int) -> None:
        """See `Training.resume`."""

    def step(self, step: int) -> Numbers:
        """Once the discriminator, then the generator as often as the request says."""
        numbers = self.discriminator_step(step)
        for _ in range(self._spec.generator_steps):
            numbers |= self.generator_step(step)
        return numbers

    def evaluate(self, step: int) -> Numbers:
        """How far made pictures are from real ones, and what the discriminator says of both.

        ``frechet`` is about those that are held out, or about those that are learnt where these are
        too few. Scores of held out ones that fall to those of made ones mean that the
        discriminator knows by heart what it learns from.
        """
        del step
        is_enough = len(self._held_out) >= frechet.LEAST
        chosen = torch.tensor((self._held_out if is_enough else self._learnt)[:EVALUATED])
        generator = self._finished()
        with torch.inference_mode():
            made = torch.cat(
                [
                    generator(self._latents(len(some)), self._classes_of(some))
                    for some in self._looked_at(chosen)
                ]
            )
        numbers = frechet.numbers(self._eyes, made, self._real(chosen))
        if not self._held_out:
            return numbers
        held_out = torch.tensor(self._held_out[:EVALUATED])
        on_real = self._judged(self._real(held_out), held_out)
        on_made = self._judged(made, chosen)
        loss = losses.of_discriminator(self._spec.loss, on_real, on_made)
        return {
            **numbers,
            "loss_discriminator_held_out": float(loss),
            "score_held_out": float(on_real.sigmoid().mean()),
            "score_made": float(on_made.sigmoid().mean()),
        }

    def samples(self, step: int) -> Iterator[Sample]:
        """A sheet of the same latents each time; classes take turns."""
        del step
        names = self._config.class_names
        classes = torch.arange(SHOWN) % len(names) if names else None
        latents = self._latents(SHOWN)
        with torch.inference_mode():
            made = self._finished()(latents, _placed(classes, self._device))
        yield Sample(_caption(names), sheet(scenes.to_pictures(made), COLUMNS))

    def export(self, folder: Path) -> Made:
        """Write both networks as `workers.families.gan` reads them."""
        (folder / CONFIG).write_text(self._config.model_dump_json(), encoding="utf-8")
        made = ((self._finished(), GENERATOR), (self._discriminator, DISCRIMINATOR))
        for network, name in made:
            state = {key: value.cpu().contiguous() for key, value in network.state_dict().items()}
            save_file(state, folder / name)
        side = self._config.size_px
        names = self._config.class_names
        return Made(
            family="gan",
            kind="gan",
            folder=folder,
            card={"default_size": f"{side}x{side}", "max_side_px": side},
            details={"labels": list(names)} if names else {},
        )

    def discriminator_step(self, step: int) -> Numbers:
        """Real pictures as 1, made ones as 0; nothing of it reaches the generator."""
        numbers = _Means()
        for _ in range(self._request.accumulate):
            chosen, latents = self._drawn()
            classes = self._classes_of(chosen)
            with torch.no_grad():
                fake = self._generator(latents, classes).detach()
            seen = torch.cat([self._real(chosen), fake])
            logits = self._discriminator(seen, None if classes is None else classes.repeat(2))
            on_real, on_fake = logits.chunk(2)
            loss = losses.of_discriminator(self._spec.loss, on_real, on_fake)
            (loss / self._request.accumulate).backward()
            numbers.add(
                loss_discriminator=loss,
                score_real=on_real.sigmoid().mean(),
                score_fake=on_fake.sigmoid().mean(),
            )
        self.learners["discriminator"].apply(step)
        return numbers.mean()

    def generator_step(self, step: int) -> Numbers:
        """Against flipped labels; the discriminator stays as it is."""
        numbers = _Means()
        for _ in range(self._request.accumulate):
            chosen, latents = self._drawn()
            classes = self._classes_of(chosen)
            with _fixed(self._discriminator):
                on_fake = self._discriminator(self._generator(latents, classes), classes)
                loss = losses.of_generator(self._spec.loss, on_fake)
                (loss / self._request.accumulate).backward()
            numbers.add(loss_generator=loss)
        rate = self.learners["generator"].apply(step)["learning_rate"]
        return {**numbers.mean(), "learning_rate": rate}

    def _drawn(self) -> tuple[Tensor, Tensor]:
        """Which pictures, whose classes made ones have as well, and latents, of a pass."""
        assert self._request.batch
        numbers = torch.randint(len(self._learnt), (self._request.batch,))
        return torch.tensor(self._learnt)[numbers], self._latents(self._request.batch)

    def _latents(self, count: int) -> Tensor:
        return torch.randn(count, self._config.latent_size).to(self._device)

    def _real(self, chosen: Tensor) -> Tensor:
        return scenes.to_tensor(self._pixels[chosen.numpy()]).to(self._device)

    def _classes_of(self, chosen: Tensor) -> Tensor | None:
        return None if self._classes is None else self._classes[chosen].to(self._device)

    def _judged(self, pictures: Tensor, chosen: Tensor) -> Tensor:
        """The logits (N,) of ``pictures``, whose classes are those of the ``chosen``."""
        with _fixed(self._discriminator), torch.inference_mode():
            parts = zip(pictures.split(AT_A_TIME), self._looked_at(chosen), strict=True)
            return torch.cat(
                [self._discriminator(some, self._classes_of(numbers)) for some, numbers in parts]
            )

    def _looked_at(self, chosen: Tensor) -> Iterator[Tensor]:
        for some in chosen.split(AT_A_TIME):
            self._ground.look()
            yield some

    def _finished(self) -> Generator:
        """The generator with averaged weights, if they are kept, in evaluation mode.

        Its batch norm has the statistics of these very weights ("standing statistics" of Brock et
        al. 2018, arXiv:1809.11096): a running mean is that of weights which are gone.
        """
        with self.learners["generator"].averaged():
            generator: Generator = deepcopy(self._generator)
        for layer in _norms(generator):
            layer.track_running_stats = True
            layer.momentum = None  # the plain mean of all batches
            layer.reset_running_stats()
        draws = torch.Generator("cpu").manual_seed(derived_seed(str(self._ground.seed), "standing"))
        with torch.inference_mode():
            for _ in range(STANDING):
                latents = torch.randn(AT_A_TIME, self._config.latent_size, generator=draws)
                classes = None
                if self._classes is not None:
                    chosen = torch.randint(len(self._learnt), (AT_A_TIME,), generator=draws)
                    classes = self._classes_of(torch.tensor(self._learnt)[chosen])
                generator(latents.to(self._device), classes)
        generator.eval()
        return generator


class _Means:
    """Means of numbers over the passes of a step."""

    def __init__(self) -> None:
        self._seen: dict[str, list[float]] = {}

    def add(self, **numbers: Tensor) -> None:
        for name, value in numbers.items():
            self._seen.setdefault(name, []).append(value.item())

    def mean(self) -> Numbers:
        return {name: sum(values) / len(values) for name, values in self._seen.items()}


def _generator(config: GanConfig) -> Generator:
    """With DCGAN's weights, in training mode; its batch norm keeps no running statistics."""
    generator = Generator(config)
    for layer in generator.modules():
        if isinstance(layer, nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, std=INITIAL_STD)
    for norm in _norms(generator):
        nn.init.normal_(norm.weight, mean=1, std=INITIAL_STD)
        norm.track_running_stats = False
    return generator


def _norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]


@contextmanager
def _fixed(module: nn.Module) -> Iterator[None]:
    """A block in which gradients go through ``module`` and change nothing of it.

    In evaluation mode its spectral norm takes its estimates as they are.
    """
    module.eval().requires_grad_(requires_grad=False)
    try:
        yield
    finally:
        module.train().requires_grad_(requires_grad=True)


def _placed(classes: Tensor | None, device: str) -> Tensor | None:
    return None if classes is None else classes.to(device)


def _caption(names: Sequence[str]) -> str:
    return f"{SHOWN} pictures" + (f" of {', '.join(names[:SHOWN])}" if names else "")
