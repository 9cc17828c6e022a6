"""One pipeline call a clip."""

from collections.abc import Iterator, Sequence
from typing import Any

import diffusers
import numpy as np
import torch

from jobs.kinds.sizes import parse_size
from jobs.kinds.video import VideoRequest
from workers.families.video.load import Loaded, Pipeline
from workers.family import Context, Item, JobError, Output
from workers.film import Frame, encode_film
from workers.pictures import covering
from workers.pipelines import heard


def generate(
    model: Loaded, items: Sequence[Item], context: Context
) -> Iterator[tuple[int, list[Output] | JobError]]:
    """The clips of ``items``.

    Noise is drawn on the CPU from each item's own seed, so that it does not depend on the device.
    """
    for index, item in enumerate(items):
        pipeline = model.pipelines[_request(item).task]
        for name in ("prompt", "negative_prompt"):
            if getattr(item.request, name) and name not in pipeline.arguments:
                message = f"model {model.card.name!r} takes no {name}; leave it out"
                yield index, JobError("unsupported", message, retry=False)
                break
        else:
            video = _call(pipeline, item, context)
            wrong = _wrong(video, item, pipeline, model.card.name)
            yield index, wrong or [_output(item, video, pipeline)]


def _call(pipeline: Pipeline, item: Item, context: Context) -> Any:
    """The clip, ``(frames, height, width, 3)`` from 0 to 1."""
    request = _request(item)
    assert request.size is not None
    size = parse_size(request.size)
    call: dict[str, Any] = {
        "prompt": request.prompt,
        "generator": torch.Generator("cpu").manual_seed(item.seed),
        "width": size[0],
        "height": size[1],
        "num_inference_steps": request.steps,
        "output_type": "np",
        pipeline.frames: request.frames,
    }
    if request.negative_prompt:
        call["negative_prompt"] = request.negative_prompt
    if request.image:
        call["image"] = covering(item.inputs["image"][0], size)
    if pipeline.fps:
        call[pipeline.fps] = request.fps
    if pipeline.guidance:
        call[pipeline.guidance] = request.guidance
    # Some start from the picture alone, or take its size for that of the clip.
    call = {name: value for name, value in call.items() if name in pipeline.arguments}
    with torch.inference_mode(), heard(pipeline.pipeline, context.step) as callback:
        return pipeline.pipeline(**call, **callback).frames[0]


def _wrong(video: Any, item: Item, pipeline: Pipeline, model: str) -> JobError | None:
    """What differs from what was asked for: pipelines round frames and sides to what they take."""
    request = _request(item)
    assert request.size is not None
    width, height = parse_size(request.size)
    asked = [
        ("frames", pipeline.frames, request.frames),
        ("height", "height", height),
        ("width", "width", width),
    ]
    for (name, argument, value), made in zip(asked, np.shape(video)[:3], strict=True):
        if argument in pipeline.arguments and value != made:
            message = (
                f"{name}: model {model!r} made {made}, not {value}; ask for what it can, and add "
                "it under another name with size_multiple, or frames_multiple_of and frames_plus "
                "in its details, so that requests are checked"
            )
            return JobError("unsupported", message, retry=False)
    return None


def _output(item: Item, video: Any, pipeline: Pipeline) -> Output:
    request = _request(item)
    assert request.fps is not None
    count, height, width, _ = np.shape(video)
    data = encode_film(
        _frames(video),
        size=(width, height),
        fps=request.fps,
        job_id=item.job_id,
        seed=item.seed,
    )
    facts = {
        "width": width,
        "height": height,
        "frames": count,
        "fps": request.fps,
        "duration_s": round(count / request.fps, 3),
        "steps": request.steps,
        "guidance": request.guidance if pipeline.guidance else None,
        "diffusers": diffusers.__version__,
        "torch": str(torch.__version__),
    }
    known = {name: value for name, value in facts.items() if value is not None}
    return Output(data, "video/mp4", known)


def _frames(video: Any) -> Iterator[Frame]:
    for picture in video:
        yield (np.asarray(picture) * 255).round().astype(np.uint8)


def _request(item: Item) -> VideoRequest:
    assert isinstance(item.request, VideoRequest)
    return item.request
