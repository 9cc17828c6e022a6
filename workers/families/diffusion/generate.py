"""One pipeline call for a batch: each image has its own prompt and its own generator."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from jobs.kinds.image import ImageRequest, parse_size
from workers.families.diffusion.load import Loaded
from workers.family import Context, Item, JobError, Output
from workers.png import encode_png


def generate(
    model: Loaded, items: Sequence[Item], context: Context
) -> Iterator[tuple[int, list[Output] | JobError]]:
    """The images of ``items``, which share size, steps and guidance.

    The noise of each image is drawn on the CPU from its own seed, so that it does not depend on
    its batch mates nor on the device.
    """
    requests = [_image_request(item) for item in items]
    shared = requests[0]
    assert shared.size is not None
    assert shared.steps is not None
    width, height = parse_size(shared.size)
    negative = [request.negative_prompt for request in requests]
    if any(negative) and "negative_prompt" not in model.arguments:
        refusal = JobError(
            "unsupported", f"model {model.card.name!r} takes no negative_prompt", retry=False
        )
        yield from ((index, refusal) for index in range(len(items)))
        return
    steps = shared.steps
    seeds = [request.seed for request in requests if request.seed is not None]
    assert len(seeds) == len(items), "the runner chooses a seed where the request has none"

    def on_step(
        _pipeline: Any, step: int, _timestep: Any, values: dict[str, Any]
    ) -> dict[str, Any]:
        context.step(step + 1, steps)
        return values

    call: dict[str, Any] = {
        "prompt": [request.prompt for request in requests],
        "width": width,
        "height": height,
        "num_inference_steps": steps,
        "guidance_scale": shared.guidance,
        "generator": [torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        "output_type": "pil",
    }
    if any(negative):
        call["negative_prompt"] = negative
    if "callback_on_step_end" in model.arguments:
        call["callback_on_step_end"] = on_step
    with torch.inference_mode():
        images = model.pipeline(**call).images
    for index, (item, seed, image) in enumerate(zip(items, seeds, images, strict=True)):
        facts = {
            "seed": seed,
            "width": image.width,
            "height": image.height,
            "model": model.card.name,
            "revision": model.card.revision,
            "licence": model.card.licence,
            "steps": steps,
            "guidance": shared.guidance,
        }
        data = encode_png(image, job_id=item.job_id, seed=seed)
        yield index, [Output(data, "image/png", facts)]


def _image_request(item: Item) -> ImageRequest:
    assert isinstance(item.request, ImageRequest)
    return item.request
