"""Pipeline calls for a batch: each picture has its own prompt and its own generator."""

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import diffusers
import torch
from PIL import Image

from jobs.kinds.image import ImageRequest, as_made, task_of
from jobs.kinds.sizes import parse_size
from workers import memory
from workers.batching import buckets
from workers.encoding import picture_output
from workers.families.diffusion import schedulers
from workers.families.diffusion.call import Shot, arguments
from workers.families.diffusion.load import Loaded
from workers.families.diffusion.quality import Shortcuts
from workers.families.diffusion.siblings import Sibling, UnsupportedTaskError
from workers.families.diffusion.tokens import tokens_cut
from workers.family import Context, Item, JobError, Output, StopRequestedError
from workers.pictures import fitted, kept
from workers.pipelines import Progress, by_negative_prompt, heard
from workers.sickness import Sickness, sickness_of


@dataclass
class _Made:
    """A picture, or that the model's own safety checker has blanked it; and how it was made."""

    picture: Image.Image | None
    facts: Mapping[str, Any]


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
    except UnsupportedTaskError as error:
        yield from _refused(range(len(items)), "unsupported", str(error))
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
    bad: set[int] = set()
    for shot, made in _pictures(model, sibling, shots, context, alone=len(items) == 1):
        if isinstance(made, JobError):
            if shot.index not in bad:
                yield shot.index, made
            bad.add(shot.index)
            continue
        if shot.is_padding:
            continue
        pictures[shot.index].append((shot, made))
        if len(pictures[shot.index]) == shared.num_images:
            yield shot.index, _outputs(model, sibling, pictures.pop(shot.index))


class _Glance:
    """A context that stops a batch after its first step."""

    def step(self, done: int, total: int) -> None:  # noqa: ARG002 (the context's)
        """Stop."""
        raise StopRequestedError


def warm(model: Loaded, items: Sequence[Item]) -> None:
    """Have the denoiser compiled for a batch of ``items``, by one step of it."""
    compiler = model.denoiser.compiler
    if compiler is None:
        return
    with compiler.urgently(), suppress(StopRequestedError):
        for _ in generate(model, items, _Glance()):
            pass


def _refused(indices: Sequence[int], code: str, message: str) -> Iterator[tuple[int, JobError]]:
    for index in indices:
        yield index, JobError(code, message, retry=False)


def _takes_negative_prompt(model: Loaded, sibling: Sibling) -> bool:
    return model.capabilities.negative_prompt and "negative_prompt" in sibling.arguments


def _pictures(
    model: Loaded, sibling: Sibling, shots: Sequence[Shot], context: Context, *, alone: bool
) -> Iterator[tuple[Shot, _Made | JobError]]:
    """The picture of each shot, call by call; or that its adapter does not fit.

    ``alone``: they are all of one job, and where memory does not do for them together, fewer are
    made at a time.
    """
    parts = deque(_parts(model, shots))
    progress = Progress(context, len(parts))
    while parts:
        part, others, unfit = model.mixing.load(parts.popleft())
        for shot, why in unfit:
            yield shot, JobError("adapter_does_not_fit", why, retry=False)
        parts.extendleft(reversed(others))
        for _ in others:
            progress.split_call()
        if not part:
            progress.end_call()
            continue
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
    alone = task_of(shots[0].request) in capabilities.one_by_one
    size = 1 if alone else capabilities.max_batch
    sorts = [
        same
        for group in by_negative_prompt(shots, lambda shot: shot.request.negative_prompt)
        for same in model.mixing.split(group)
    ]
    for sort in sorts:
        compiles = model.denoiser.compiler is not None
        whole = alone or len(sorts) == 1
        same = sort if whole else _filled(sort, len(shots), coarse=compiles)
        for start in range(0, len(same), size):
            yield same[start : start + size]


def _filled(shots: Sequence[Shot], most: int, *, coarse: bool) -> Sequence[Shot]:
    """A part of a batch of ``most``, filled up as the runner fills up a batch: see `batching`."""
    each = shots[0].request.num_images
    jobs = len(shots) // each
    size = next(size for size in buckets(most // each, coarse=coarse) if size >= jobs)
    return [*shots, *[replace(shots[-1], is_padding=True)] * ((size - jobs) * each)]


def _call(
    model: Loaded, sibling: Sibling, shots: Sequence[Shot], progress: Progress
) -> list[_Made]:
    request = shots[0].request
    call = arguments(model.capabilities, sibling, shots, _size_made(model, request))
    # Some draw noise beside the generators that they are given; these make one picture at a time.
    torch.manual_seed(shots[0].seed)
    with schedulers.chosen(sibling.pipeline, request.scheduler):
        shortcuts = Shortcuts(
            model,
            sibling.pipeline,
            request,
            model.mixing.denoiser(shots),
            adapters=bool(shots[0].item.adapters),
        )
        with (
            torch.inference_mode(),
            model.denoiser.steady(),
            model.denoiser.used(sibling.pipeline, shortcuts.module),
            heard(sibling.pipeline, shortcuts.heard(progress.step)) as callback,
        ):
            call = model.embeddings.instead_of_texts(
                sibling, call, [shot.item.adapters for shot in shots]
            )
            output = sibling.pipeline(**call, **callback)
    flagged = getattr(output, "nsfw_content_detected", None) or [False] * len(shots)
    return [
        _Made(None if is_flagged else picture, shortcuts.facts)
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
        _output(model, sibling, shot, made.picture, {**more, **made.facts})
        for shot, made in pictures
        if made.picture is not None
    ]


def _output(
    model: Loaded, sibling: Sibling, shot: Shot, picture: Image.Image, more: Mapping[str, Any]
) -> Output:
    request = shot.request
    assert request.size is not None
    asked, made = parse_size(request.size), _size_made(model, request)
    size = asked if made != asked or request.mask is not None else picture.size
    facts: dict[str, Any] = {
        "width": size[0],
        "height": size[1],
        "task": task_of(request),
        "steps": request.steps,
        "guidance": request.guidance,
        "seed": shot.seed,
        "diffusers": diffusers.__version__,
        "torch": str(torch.__version__),
        **more,
    }
    chosen = {
        "made_size": None if made == asked else f"{made[0]}x{made[1]}",
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
    draw = partial(_drawn, shot, picture, size, made)
    return picture_output(
        draw, request.format, job_id=shot.item.job_id, seed=shot.seed, facts=facts
    )


def _drawn(
    shot: Shot, picture: Image.Image, size: tuple[int, int], made: tuple[int, int]
) -> Image.Image:
    """What the model has made, at the size that was asked for, and around a mask as it was."""
    picture = fitted(picture, size)
    if shot.request.mask is None:
        return picture
    return kept(picture, shot.picture("image", size, within=made), shot.mask(size, within=made))


def _size_made(model: Loaded, request: ImageRequest) -> tuple[int, int]:
    """In pixels, what the model runs at."""
    size = as_made(request, model.card).size
    assert size is not None
    return parse_size(size)


def _image_request(item: Item) -> ImageRequest:
    assert isinstance(item.request, ImageRequest)
    return item.request
