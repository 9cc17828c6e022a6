"""One pipeline call for a batch: each image has its own prompt and its own generator."""

from collections.abc import Iterator, Sequence
from typing import Any

import diffusers
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
    requests = {index: _image_request(item) for index, item in enumerate(items)}
    if "negative_prompt" not in model.arguments:
        for index in [index for index, request in requests.items() if request.negative_prompt]:
            message = f"model {model.card.name!r} takes no negative_prompt"
            yield index, JobError("unsupported", message, retry=False)
            del requests[index]
    if not requests:
        return
    output = _call(model, list(requests.values()), context)
    flagged = getattr(output, "nsfw_content_detected", None) or [False] * len(requests)
    for (index, request), image, is_flagged in zip(
        requests.items(), output.images, flagged, strict=True
    ):
        if is_flagged:
            # The pipeline has blanked the picture: an empty ad must not pass for a finished one.
            message = "the model's safety checker rejected the picture; change prompt or seed"
            yield index, JobError("content_rejected", message, retry=False)
            continue
        seed = _seed(request)
        facts = {
            "seed": seed,
            "width": image.width,
            "height": image.height,
            "model": model.card.name,
            "revision": model.card.revision,
            "licence": model.card.licence,
            "steps": request.steps,
            "guidance": request.guidance,
            "diffusers": diffusers.__version__,
            "torch": str(torch.__version__),
        }
        data = encode_png(image, job_id=items[index].job_id, seed=seed)
        yield index, [Output(data, "image/png", facts)]


def _call(model: Loaded, requests: Sequence[ImageRequest], context: Context) -> Any:
    """The pipeline's output for requests that share a batch key."""
    shared = requests[0]
    assert shared.size is not None
    assert shared.steps is not None
    width, height = parse_size(shared.size)
    steps = shared.steps

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
        "generator": [torch.Generator("cpu").manual_seed(_seed(request)) for request in requests],
        "output_type": "pil",
    }
    if any(request.negative_prompt for request in requests):
        call["negative_prompt"] = [request.negative_prompt for request in requests]
    if "callback_on_step_end" in model.arguments:
        call["callback_on_step_end"] = on_step
    with torch.inference_mode():
        return model.pipeline(**call)


def _image_request(item: Item) -> ImageRequest:
    assert isinstance(item.request, ImageRequest)
    return item.request


def _seed(request: ImageRequest) -> int:
    assert request.seed is not None, "the runner chooses a seed where the request has none"
    return request.seed
