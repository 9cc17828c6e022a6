"""Pictures drawn until the discriminator is content: each job for itself, all in shared calls."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from jobs.kinds.gan import GanRequest
from jobs.kinds.values import derived_seed
from workers.encoding import picture_output
from workers.families.gan.load import Loaded
from workers.family import Context, Item, JobError, Output

ROWS = 64
"""How many pictures one call of the networks makes at most."""


@dataclass
class Picture:
    """One picture of an item, and how it has gone so far."""

    index: int
    item: Item
    number: int
    draws: int = 0
    best: float = 0
    output: Output | None = None

    @property
    def request(self) -> GanRequest:
        """What the item asks for."""
        assert isinstance(self.item.request, GanRequest)
        return self.item.request

    @property
    def draws_left(self) -> int:
        """How often it may be drawn yet."""
        limit = 1 if self.request.min_score is None else self.request.max_draws
        return 0 if self.output else limit - self.draws

    @property
    def seed(self) -> int:
        """Each picture of an item has the next seed."""
        return self.item.seed + self.number

    @property
    def latent_seed(self) -> int:
        """The seed of the latest draw: the first has the picture's, the others have their own."""
        return self.seed if self.draws == 1 else derived_seed(str(self.seed), str(self.draws))


def generate(
    model: Loaded, items: Sequence[Item], context: Context
) -> Iterator[tuple[int, list[Output] | JobError]]:
    """The pictures of ``items``; a step is a draw, and draws that are spared count as done."""
    pictures = [
        Picture(index, item, number)
        for index, item in enumerate(items)
        for number in range(_num_images(item))
    ]
    total = sum(picture.draws_left for picture in pictures)
    failed: dict[int, JobError] = {}
    waiting = deque(pictures)
    while waiting:
        drawn = [waiting.popleft() for _ in range(min(ROWS, len(waiting)))]
        _draw(model, drawn)
        for picture in drawn:
            if picture.draws_left:
                waiting.append(picture)
            elif picture.output is None:
                failed.setdefault(picture.index, _too_low(picture))
        waiting = deque(picture for picture in waiting if picture.index not in failed)
        context.step(total - sum(picture.draws_left for picture in waiting), total)
    for index in range(len(items)):
        made = [picture.output for picture in pictures if picture.index == index]
        yield index, failed.get(index) or [output for output in made if output]


def latent(seed: int, size: int, classes: int, truncation: float | None) -> tuple[Tensor, int]:
    """A latent (size,) of the standard normal distribution, on the CPU, and one of the classes.

    Values beyond ``truncation`` are drawn again: the truncation trick of Brock et al. 2018
    (arXiv:1809.11096, section 3.1).
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    # The class first: how many numbers the latent takes depends on its truncation.
    class_ = int(torch.randint(max(classes, 1), (), generator=generator))
    z = torch.randn(size, generator=generator)
    while truncation is not None and bool((beyond := z.abs() > truncation).any()):
        z[beyond] = torch.randn(int(beyond.sum()), generator=generator)
    return z, class_


def _draw(model: Loaded, pictures: Sequence[Picture]) -> None:
    """Draw each once more, and give those that score well enough their output."""
    names = model.config.class_names
    latents, classes = [], []
    for picture in pictures:
        picture.draws += 1
        request = picture.request
        z, class_ = latent(
            picture.latent_seed, model.config.latent_size, len(names), request.truncation
        )
        latents.append(z)
        classes.append(class_ if request.label is None else names.index(str(request.label)))
    with torch.inference_mode():
        given = torch.tensor(classes, device=model.device.type) if names else None
        made = model.generator(torch.stack(latents).to(model.device.type), given)
        scores = model.discriminator(made, given).sigmoid().tolist()
        images = ((made + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    for picture, score, class_, pixels in zip(pictures, scores, classes, images, strict=True):
        if not math.isfinite(score):
            raise ValueError(f"the score is {score}: the model's weights are damaged")
        picture.best = max(picture.best, score)
        if score < (picture.request.min_score or 0):
            continue
        facts = {
            "width": pixels.shape[1],
            "height": pixels.shape[0],
            "score": score,
            "seed": picture.seed,
            "draws": picture.draws,
            "latent_seed": picture.latent_seed,
            "truncation": picture.request.truncation,
            "label": names[class_] if names else None,
            "torch": str(torch.__version__),
        }
        picture.output = picture_output(
            partial(Image.fromarray, pixels),
            picture.request.format,
            job_id=picture.item.job_id,
            seed=picture.seed,
            facts=facts,
        )


def _too_low(picture: Picture) -> JobError:
    request = picture.request
    message = (
        f"min_score: none of {picture.draws} draws scored {request.min_score} or more, the best "
        f"{picture.best:.4f}; ask for less, allow more max_draws, or change the seed"
    )
    return JobError("score_too_low", message, retry=False)


def _num_images(item: Item) -> int:
    assert isinstance(item.request, GanRequest)
    return item.request.num_images
