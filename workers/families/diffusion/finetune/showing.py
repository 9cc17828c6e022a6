"""Pictures that a base makes while it is trained: of the class in general, and of prompts."""

from collections.abc import Iterator
from uuid import uuid4

import torch
from PIL import Image

from jobs.kinds.image import ImageRequest, resolve
from storage.models import ModelCard
from workers.families.diffusion.call import Shot, arguments
from workers.families.diffusion.capabilities import CAPABILITIES
from workers.families.diffusion.finetune.base import Base
from workers.families.diffusion.finetune.pictures import Size
from workers.family import Item


def pictures(
    base: Base,
    card: ModelCard,
    prompt: str,
    *,
    seed: int,
    count: int,
    size: Size,
    at_a_time: int = 1,
) -> Iterator[Image.Image | None]:
    """``count`` pictures with seeds from ``seed`` on, as jobs' are made; None: it was rejected.

    They depend on nothing but these, the weights, and the card's steps and guidance.
    """
    capabilities = CAPABILITIES[base.name]

    def shot(number: int) -> Shot:
        given = ImageRequest(model=card.name, prompt=prompt, seed=seed + number)
        return Shot(0, Item(uuid4(), resolve(given, card)), 0)

    size_of_call = min(at_a_time, capabilities.max_batch)
    for start in range(0, count, size_of_call):
        shots = [shot(number) for number in range(start, min(start + size_of_call, count))]
        torch.manual_seed(seed + start)  # of what a pipeline draws beside its generators
        # Not in inference mode: what a denoiser keeps from here on, such as frequencies of
        # positions, would be of no use to a backward pass.
        with torch.no_grad():
            output = base.sibling.pipeline(**arguments(capabilities, base.sibling, shots, size))
        flagged = getattr(output, "nsfw_content_detected", None) or [False] * len(shots)
        for picture, is_flagged in zip(output.images, flagged, strict=True):
            yield None if is_flagged else picture
