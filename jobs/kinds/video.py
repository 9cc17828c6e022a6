"""The ``video`` kind: a film clip from a text prompt, from a picture, or from both."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from jobs.kinds.kind import Kind, KindRequest
from jobs.kinds.sizes import SizeText, check_size, parse_size
from jobs.kinds.values import ModelName, ReferenceText, Seed, Stored, check_makes, read_details
from jobs.problems import BadInputError, Problem
from storage.models import ModelCard

MAX_FRAMES = 1000
MAX_FPS = 60

Task = Literal["text-to-video", "image-to-video"]


class VideoDetails(BaseModel):
    """What the card of a video model says in its ``details``.

    ``frames_multiple_of`` 8 with ``frames_plus`` 1: it takes 9, 17, 25 frames and so on.
    ``prompt`` False: it starts from the picture alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: Annotated[tuple[Task, ...], Field(min_length=1)] = ("text-to-video",)
    prompt: bool = True
    default_frames: Annotated[int, Field(ge=1, le=MAX_FRAMES)] = 16
    max_frames: Annotated[int, Field(ge=1, le=MAX_FRAMES)] = 128
    frames_multiple_of: Annotated[int, Field(ge=1)] = 1
    frames_plus: Annotated[int, Field(ge=0)] = 0
    default_fps: Annotated[int, Field(ge=1, le=MAX_FPS)] = 8


class VideoRequest(KindRequest):
    """One clip. What is left out is taken from the model's card."""

    prompt: Annotated[
        str, Field(max_length=4000, description="What happens in the clip."), Stored
    ] = ""
    negative_prompt: Annotated[
        str, Field(max_length=4000, description="What it must not show."), Stored
    ] = ""
    image: Annotated[
        ReferenceText | None,
        Field(description="The picture to set in motion; it is cropped to the clip's shape."),
    ] = None
    model: ModelName = "debug-video"
    size: Annotated[
        SizeText | None, Field(description="WIDTHxHEIGHT in pixels.", examples=["704x480"])
    ] = None
    frames: Annotated[
        int | None, Field(ge=1, le=MAX_FRAMES, description="How many pictures the clip has.")
    ] = None
    fps: Annotated[int | None, Field(ge=1, le=MAX_FPS, description="Pictures a second.")] = None
    steps: Annotated[int | None, Field(ge=1, le=1000, description="Denoising steps.")] = None
    guidance: Annotated[
        float | None,
        Field(ge=0, le=100, allow_inf_nan=False, description="Classifier-free guidance scale."),
    ] = None
    seed: Seed = None

    @property
    def task(self) -> Task:
        """What a model must be able to do for it."""
        return "text-to-video" if self.image is None else "image-to-video"


def resolve(request: VideoRequest, card: ModelCard) -> VideoRequest:
    """The request with size, frames, fps, steps and guidance filled in from ``card``.

    Raises:
        BadInputError: the model cannot do it.
    """
    check_makes(card, VIDEO.name)
    details = read_details(card, VideoDetails)
    size = request.size or card.default_size
    check_size(size, card)
    if any(side % 2 for side in parse_size(size)):
        raise BadInputError(Problem(f"{size}: the sides of a video are even", field="size"))
    frames = details.default_frames if request.frames is None else request.frames
    _check_frames(frames, card, details)
    _check_task(request, card, details)
    return request.model_copy(
        update={
            "size": size,
            "frames": frames,
            "fps": details.default_fps if request.fps is None else request.fps,
            "steps": card.default_steps if request.steps is None else request.steps,
            "guidance": card.default_guidance if request.guidance is None else request.guidance,
        }
    )


def _check_task(request: VideoRequest, card: ModelCard, details: VideoDetails) -> None:
    if request.task not in details.tasks:
        message = (
            f"model {card.name!r} needs a picture to start from"
            if request.image is None
            else f"model {card.name!r} takes no picture; leave it out, or choose a model that does "
            "image-to-video"
        )
        raise BadInputError(Problem(message, field="image"))
    if details.prompt and not request.prompt:
        raise BadInputError(Problem(f"model {card.name!r} needs a prompt", field="prompt"))
    for name in ("prompt", "negative_prompt"):
        if not details.prompt and getattr(request, name):
            message = f"model {card.name!r} starts from the picture alone; leave {name} out"
            raise BadInputError(Problem(message, field=name))


def _check_frames(frames: int, card: ModelCard, details: VideoDetails) -> None:
    multiple, plus = details.frames_multiple_of, details.frames_plus
    if frames > details.max_frames:
        raise BadInputError(
            Problem(
                f"{frames}: model {card.name!r} makes at most {details.max_frames} frames",
                field="frames",
            )
        )
    if (frames - plus) % multiple:
        lower = (frames - plus) // multiple * multiple + plus
        near = [n for n in (lower, lower + multiple) if 1 <= n <= details.max_frames]
        rule = f"a multiple of {multiple}" + (f" plus {plus}" if plus else "")
        raise BadInputError(
            Problem(
                f"{frames}: model {card.name!r} makes {rule} frames; "
                f"nearest: {' or '.join(map(str, near))}",
                field="frames",
            )
        )


def batch_facts(request: VideoRequest) -> dict[str, Any]:
    """What one pipeline call has one of. Prompts, pictures and seeds differ."""
    names = ("task", "size", "frames", "fps", "steps", "guidance")
    return {name: getattr(request, name) for name in names}


VIDEO = Kind(
    name="video",
    summary="A film clip (MP4) from a text prompt or a picture.",
    makes="video",
    Request=VideoRequest,
    templates=frozenset({"prompt", "negative_prompt", "image"}),
    default_model="debug-video",
    example={
        "prompt": "red apple rolling over a table",
        "model": "debug-video",
        "size": "64x64",
        "frames": 9,
        "fps": 8,
        "steps": 4,
        "guidance": 3.0,
        "seed": 7,
    },
    resolve=resolve,
    batch_facts=batch_facts,
    inputs={"image": "picture"},
)
