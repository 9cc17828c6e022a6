"""Pipeline calls for a batch: each picture has its own prompt and its own generator."""

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from PIL import Image

from jobs.kinds.image import ImageRequest, task_of
from jobs.kinds.sizes import parse_size
from workers import memory
from workers.families.diffusion import schedulers
from workers.families.diffusion.adapters import AdapterDoesNotFitError
from workers.families.diffusion.call import Shot, arguments
from workers.families.diffusion.load import Loaded
from workers.families.diffusion.siblings import Sibling, UnsupportedTaskError
from workers.families.diffusion.tokens import tokens_cut
from workers.family import Context, Item, JobError, Output
from workers.pictures import kept
from workers.pipelines import Progress, by_negative_prompt, heard
from workers.png import encode_png
from workers.sickness import Sickness, sickness_of


@dataclass
class _Made:
    """A picture, or that the model's own safety checker has blanked it."""

    picture: Image.Image | None


def generate(
    model: Loaded, items: Sequence[Item], context: Context
) -> Iterator[tuple[int, list[Output] | JobError]]:
    """The pictures of ``items``, which share all that a call has only one of.

    The noise of each is drawn on the CPU from its own seed, so that it depends neither on its
    batch mates nor on the device.
    """
    requests = [_image_request(item) for item in items]
    shared = requests[0]
    try:
        sibling = model.siblings.get(task_of(shared))
        model.adapters.use(items[0].adapters)
    except UnsupportedTaskError as error:
        yield from _refused(range(len(items)), "unsupported", str(error))
        return
    except AdapterDoesNotFitError as error:
        yield from _refused(range(len(items)), "adapter_does_not_fit", str(error))
        return
    shots, refused = [], []
    for index, (item, request) in enumerate(zip(items, requests, strict=True)):
        if request.negative_prompt and not _takes_negative_prompt(model, sibling):
            refused.append(index)
        else:
            shots += [Shot(index, item, n) for n in range(request.num_images)]
    message = f"model {model.card.name!r} takes no negative_prompt; leave it out"
    yield from _refused(refused, "unsupported", message)
    pictures: dict[int, list[tuple[Shot, _Made]]] = defaultdict(list)
    for shot, made in _pictures(model, sibling, shots, context, alone=len(items) == 1):
        pictures[shot.index].append((shot, made))
        if len(pictures[shot.index]) == shared.num_images:
            yield shot.index, _outputs(model, sibling, pictures.pop(shot.index))


def _refused(indices: Sequence[int], code: str, message: str) -> Iterator[tuple[int, JobError]]:
    for index in indices:
        yield index, JobError(code, message, retry=False)


def _takes_negative_prompt(model: Loaded, sibling: Sibling) -> bool:
    return model.capabilities.negative_prompt and "negative_prompt" in sibling.arguments


def _pictures(
    model: Loaded, sibling: Sibling, shots: Sequence[Shot], context: Context, *, alone: bool
) -> Iterator[tuple[Shot, _Made]]:
    """The picture of each shot, call by call.

    ``alone``: they are all of one job, and where memory does not do for them together, fewer are
    made at a time.
    """
    parts = deque(_parts(model, shots))
    progress = Progress(context, len(parts))
    while parts:
        part = parts.popleft()
        try:
            made = _call(model, sibling, part, progress)
        except Exception as error:
            # Of several jobs the runner does fewer at a time, and remembers how many.
            if not alone or len(part) == 1 or sickness_of(error) is not Sickness.OUT_OF_MEMORY:
                raise
            made = None  # the error ends here: its traceback keeps the call's tensors
        if made is None:
            memory.give_back()
            half = len(part) // 2
            parts.extendleft([part[half:], part[:half]])
            progress.split_call()
            continue
        progress.end_call()
        yield from zip(part, made, strict=True)


def _parts(model: Loaded, shots: Sequence[Shot]) -> Iterator[Sequence[Shot]]:
    """Calls of the size that the model takes."""
    capabilities = model.capabilities
    for same in by_negative_prompt(shots, lambda shot: shot.request.negative_prompt):
        alone = task_of(same[0].request) in capabilities.one_by_one
        size = 1 if alone else capabilities.max_batch
        for start in range(0, len(same), size):
            yield same[start : start + size]


def _call(
    model: Loaded, sibling: Sibling, shots: Sequence[Shot], progress: Progress
) -> list[_Made]:
    request = shots[0].request
    call = arguments(model.capabilities, sibling, shots)
    # Some draw noise beside the generators that they are given; these make one picture at a time.
    torch.manual_seed(shots[0].seed)
    with (
        torch.inference_mode(),
        schedulers.chosen(sibling.pipeline, request.scheduler),
        heard(sibling.pipeline, progress.step) as callback,
    ):
        output = sibling.pipeline(**call, **callback)
    flagged = getattr(output, "nsfw_content_detected", None) or [False] * len(shots)
    return [
        _Made(None if is_flagged else picture)
        for picture, is_flagged in zip(output.images, flagged, strict=True)
    ]


def _outputs(
    model: Loaded, sibling: Sibling, pictures: Sequence[tuple[Shot, _Made]]
) -> list[Output] | JobError:
    """An item's pictures by seed, without those that were rejected."""
    rejected = sum(made.picture is None for _, made in pictures)
    if rejected == len(pictures):
        # The pipeline has blanked them: an empty ad must not pass for a finished one.
        message = "the model's safety checker rejected the picture; change prompt or seed"
        return JobError("content_rejected", message, retry=False)
    more = {"pictures_rejected": rejected} if rejected else {}
    return [
        _output(model, sibling, shot, made.picture, more)
        for shot, made in pictures
        if made.picture is not None
    ]


def _output(
    model: Loaded, sibling: Sibling, shot: Shot, picture: Image.Image, more: Mapping[str, Any]
) -> Output:
    request = shot.request
    assert request.size is not None
    if request.image is not None and request.mask is not None:
        size = parse_size(request.size)
        picture = kept(picture, shot.picture("image", size), shot.mask(size))
    facts: dict[str, Any] = {
        "width": picture.width,
        "height": picture.height,
        "task": task_of(request),
        "steps": request.steps,
        "guidance": request.guidance,
        "seed": shot.seed,
        "diffusers": diffusers.__version__,
        "torch": str(torch.__version__),
        **more,
    }
    chosen = {
        "scheduler": request.scheduler,
        "strength": request.strength,
        "controlnet_scale": request.controlnet_scale,
        "prompt_tokens_cut": tokens_cut(
            sibling,
            request.prompt,
            request.max_sequence_length,
            model.capabilities.tokens_before_prompt,
        ),
    }
    facts |= {name: value for name, value in chosen.items() if value is not None}
    data = encode_png(picture, job_id=shot.item.job_id, seed=shot.seed)
    return Output(data, "image/png", facts)


def _image_request(item: Item) -> ImageRequest:
    assert isinstance(item.request, ImageRequest)
    return item.request
