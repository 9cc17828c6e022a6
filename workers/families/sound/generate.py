"""One pipeline call for a batch: each sound has its own prompt and its own generator."""

from collections.abc import Iterator, Sequence
from typing import Any

import diffusers
import torch

from jobs.kinds.sound import SoundRequest
from workers import sound
from workers.families.sound.load import Loaded
from workers.family import Context, Item, JobError, Output
from workers.pipelines import Progress, by_negative_prompt, heard


def generate(
    model: Loaded, items: Sequence[Item], context: Context
) -> Iterator[tuple[int, list[Output] | JobError]]:
    """The sounds of ``items``, which share duration, steps and guidance.

    The noise of each is drawn on the CPU from its own seed.
    """
    calls = list(
        by_negative_prompt(list(enumerate(items)), lambda pair: _request(pair[1]).negative_prompt)
    )
    progress = Progress(context, len(calls))
    for call in calls:
        made = _call(model, [item for _, item in call], progress)
        progress.end_call()
        for (index, item), samples in zip(call, made, strict=True):
            yield index, [_output(model, item, samples)]


def _call(model: Loaded, items: Sequence[Item], progress: Progress) -> Any:
    """The samples of each item, [time] or [channels, time]."""
    requests = [_request(item) for item in items]
    shared = requests[0]
    call: dict[str, Any] = {
        "prompt": [request.prompt for request in requests],
        model.length: shared.duration_s,
        "num_inference_steps": shared.steps,
        "guidance_scale": shared.guidance,
        "generator": [torch.Generator("cpu").manual_seed(item.seed) for item in items],
        "output_type": "np",
    }
    if shared.negative_prompt:
        call["negative_prompt"] = [request.negative_prompt for request in requests]
    with torch.inference_mode(), heard(model.pipeline, progress.step) as callback:
        return model.pipeline(**call, **callback).audios


def _output(model: Loaded, item: Item, samples: Any) -> Output:
    request = _request(item)
    data = sound.encode_sound(
        samples, model.sample_rate_hz, request.format, job_id=item.job_id, seed=item.seed
    )
    facts = {
        **sound.facts_of(samples, model.sample_rate_hz),
        "steps": request.steps,
        "guidance": request.guidance,
        "diffusers": diffusers.__version__,
        "torch": str(torch.__version__),
    }
    return Output(data, sound.MEDIA_TYPES[request.format], facts)


def _request(item: Item) -> SoundRequest:
    assert isinstance(item.request, SoundRequest)
    return item.request
