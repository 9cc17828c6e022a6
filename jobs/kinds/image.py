"""The ``image`` kind: pictures from a text prompt, and from pictures where one is given."""

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from jobs.kinds.image_details import ImageDetails, Task
from jobs.kinds.kind import Kind, KindRequest
from jobs.kinds.sizes import SizeText, check_size, size_to_make
from jobs.kinds.values import (
    AdapterUse,
    ModelName,
    PictureFormat,
    ReferenceText,
    Seed,
    Stored,
    check_makes,
    read_details,
)
from jobs.problems import BadInputError, Problem, nearest
from storage.models import ModelCard

MAX_ADAPTERS = 8
MAX_IMAGES = 8

LCM_STEPS = 50
"""Those that consistency models are distilled from."""

IMAGE_STRENGTH = 0.6
"""How much of a start picture is made anew where nobody says: its layout is kept."""
INPAINT_STRENGTH = 1.0
"""What is under the mask is made from noise where nobody says: the mask says how much is kept."""

Quality = Literal["exact", "high", "draft"]
"""How much a picture may lose to be made sooner; docs/performance.md says what that is."""
DRAFT_STEPS = 0.5
"""As much of a model's usual steps is done for a draft, where the job does not say how many."""


class ImageRequest(KindRequest):
    """One picture, or several of the same prompt. What is left out is the model's default."""

    prompt: Annotated[
        str, Field(min_length=1, max_length=4000, description="What the picture shows."), Stored
    ]
    negative_prompt: Annotated[
        str, Field(max_length=4000, description="What it must not show."), Stored
    ] = ""
    model: ModelName = "debug-diffusion"
    image: Annotated[
        ReferenceText | None,
        Field(
            description="A picture to start from. It is scaled and cropped to cover the size.",
            examples=["sample:mug.png"],
        ),
    ] = None
    mask: Annotated[
        ReferenceText | None,
        Field(
            description="White where the start picture is repainted; the rest of it is kept.",
            examples=["sample:mask.png"],
        ),
    ] = None
    control: Annotated[
        ReferenceText | None,
        Field(
            description="What a ControlNet follows: edges, depth or poses, as it was trained on.",
            examples=["sample:edges.png"],
        ),
    ] = None
    strength: Annotated[
        float | None,
        Field(
            gt=0,
            le=1,
            allow_inf_nan=False,
            description="How much of the start picture is made anew: 1 is all of it. As much of "
            "the steps is done.",
        ),
    ] = None
    controlnet_scale: Annotated[
        float | None,
        Field(ge=0, le=2, allow_inf_nan=False, description="How strongly `control` works."),
    ] = None
    size: Annotated[
        SizeText | None, Field(description="WIDTHxHEIGHT in pixels.", examples=["128x128"])
    ] = None
    steps: Annotated[int | None, Field(ge=1, le=1000, description="Denoising steps.")] = None
    quality: Annotated[
        Quality,
        Field(
            description="How much may be lost to have it sooner: nothing (exact), little (high), "
            "or what a first look can do without (draft, of fewer steps as well)."
        ),
    ] = "exact"
    scheduler: Annotated[
        Annotated[str, Stored] | None,
        Field(
            min_length=1,
            max_length=64,
            description="How noise becomes a picture, such as euler-a or dpm++-2m-karras; "
            "left out: as the model comes.",
        ),
    ] = None
    guidance: Annotated[
        float | None,
        Field(ge=0, le=100, allow_inf_nan=False, description="Classifier-free guidance scale."),
    ] = None
    max_sequence_length: Annotated[
        int | None,
        Field(ge=1, le=4096, description="How many tokens of the prompt are read at most."),
    ] = None
    adapters: Annotated[
        tuple[AdapterUse, ...],
        Field(max_length=MAX_ADAPTERS, description="LoRAs on top of the model."),
    ] = ()
    num_images: Annotated[
        int,
        Field(
            ge=1,
            le=MAX_IMAGES,
            description="How many pictures. Each has the next seed: the "
            "second is what `seed` + 1 would give.",
        ),
    ] = 1
    format: PictureFormat = "png"
    seed: Seed = None

    @property
    def uses(self) -> tuple[AdapterUse, ...]:
        """The adapters on top of the model."""
        return self.adapters


def task_of(request: ImageRequest) -> Task:
    """What the model is asked for, by the pictures that the request starts from."""
    if request.mask is not None:
        return "inpaint" if request.control is None else "control-inpaint"
    if request.image is not None:
        return "image-to-image" if request.control is None else "control-image-to-image"
    return "text-to-image" if request.control is None else "control"


def resolve(request: ImageRequest, card: ModelCard) -> ImageRequest:
    """The request with all that it leaves open filled in from ``card``.

    The size of a start picture is not known yet: without a size, it is the card's.

    Raises:
        BadInputError: the model cannot do it, or does not make images.
    """
    check_makes(card, IMAGE.name)
    size = request.size or card.default_size
    can = read_details(card, ImageDetails)
    check_size(size, card, scales=bool(can.sizes))
    for made in can.sizes:
        check_size(made, card)
    steps = _usual_steps(request, card) if request.steps is None else request.steps
    problems = [
        *_input_problems(request, card, can),
        *_strength_problems(request, card, can, steps),
        *_choice_problems(request, card, can, steps),
    ]
    if problems:
        raise BadInputError(*problems)
    update: dict[str, Any] = {
        "size": size,
        "steps": steps,
        "guidance": card.default_guidance if request.guidance is None else request.guidance,
    }
    if request.image is not None and request.strength is None and can.strength:
        usual = INPAINT_STRENGTH if request.mask is not None else IMAGE_STRENGTH
        update["strength"] = usual if int(steps * usual) else 1.0
    if request.control is not None and request.controlnet_scale is None:
        update["controlnet_scale"] = 1.0
    return request.model_copy(update=update)


def _usual_steps(request: ImageRequest, card: ModelCard) -> int:
    if request.quality == "draft":
        return math.ceil(card.default_steps * DRAFT_STEPS)
    return card.default_steps


def _input_problems(request: ImageRequest, card: ModelCard, can: ImageDetails) -> Iterator[Problem]:
    if request.mask is not None and request.image is None:
        yield Problem("needs an image, the picture that is repainted; give both", field="mask")
        return
    task = task_of(request)
    if task in can.tasks:
        return
    given = [name for name in ("image", "mask", "control") if getattr(request, name) is not None]
    does = ", ".join(can.tasks)
    if given:
        yield Problem(f"model {card.name!r} does no {task}, only {does}", field=given[-1])
    else:
        field = "mask" if can.tasks[0].endswith("inpaint") else "image"
        yield Problem(f"model {card.name!r} needs it, for {does}", field=field)


def _strength_problems(
    request: ImageRequest, card: ModelCard, can: ImageDetails, steps: int
) -> Iterator[Problem]:
    strength = request.strength
    if strength is not None:
        if request.image is None:
            yield Problem(
                "is about a start picture: give an image, or leave it out", field="strength"
            )
        elif not can.strength:
            yield Problem(f"model {card.name!r} takes none; leave it out", field="strength")
        elif int(steps * strength) < 1:
            yield Problem(
                f"{strength} of {steps} steps is less than one step: raise it, or take more steps",
                field="strength",
            )
    if request.controlnet_scale is not None and request.control is None:
        yield Problem("is about control: give one, or leave it out", field="controlnet_scale")


def _choice_problems(
    request: ImageRequest, card: ModelCard, can: ImageDetails, steps: int
) -> Iterator[Problem]:
    scheduler = request.scheduler
    if scheduler is not None and scheduler not in can.schedulers:
        choice = nearest(scheduler, list(can.schedulers)) if can.schedulers else "leave it out"
        yield Problem(f"model {card.name!r} takes no {scheduler!r}; {choice}", field="scheduler")
    if scheduler == "lcm" and steps > LCM_STEPS:
        yield Problem(f"lcm takes at most {LCM_STEPS}, and needs 4 to 8", field="steps")
    if request.negative_prompt and not can.negative_prompt:
        yield Problem(f"model {card.name!r} takes none; leave it out", field="negative_prompt")
    if request.adapters and not can.adapters:
        yield Problem(f"model {card.name!r} takes none; leave them out", field="adapters")
    names = [use.name for use in request.adapters]
    for index, name in enumerate(names):
        if name in names[:index]:
            message = f"{name!r} is there already; give each adapter once, with its whole weight"
            yield Problem(message, field=f"adapters[{index}].name")
    length = request.max_sequence_length
    if length is not None and (can.max_sequence_length is None or length > can.max_sequence_length):
        most = can.max_sequence_length
        message = f"takes at most {most}" if most else "has no choice of it; leave it out"
        yield Problem(f"model {card.name!r} {message}", field="max_sequence_length")


def as_made(request: ImageRequest, card: ModelCard) -> ImageRequest:
    """A resolved request with the size that the model runs at, see `sizes.size_to_make`."""
    assert request.size is not None
    size = size_to_make(request.size, read_details(card, ImageDetails).sizes)
    return request if size == request.size else request.model_copy(update={"size": size})


def batch_facts(request: ImageRequest) -> dict[str, Any]:
    """What one pipeline call has only one of. Prompts, pictures and seeds differ.

    What a plain picture from text does not have is left out.
    """
    facts = {
        "task": task_of(request),
        "strength": request.strength,
        "controlnet_scale": request.controlnet_scale,
        "scheduler": request.scheduler,
        "max_sequence_length": request.max_sequence_length,
        "adapters": [[use.name, use.weight] for use in request.adapters],
        "num_images": request.num_images,
        "quality": request.quality,
    }
    plain = {"task": "text-to-image", "adapters": [], "num_images": 1, "quality": "exact"}
    return {
        "size": request.size,
        "steps": request.steps,
        "guidance": request.guidance,
        **{name: value for name, value in facts.items() if value != plain.get(name)},
    }


IMAGE = Kind(
    name="image",
    summary="Pictures from a text prompt, or from a prompt and a picture.",
    makes="picture",
    Request=ImageRequest,
    templates=frozenset({"prompt", "negative_prompt", "image", "mask", "control"}),
    default_model="debug-diffusion",
    example={
        "prompt": "red apple on a blue background",
        "model": "debug-diffusion",
        "size": "128x128",
        "steps": 8,
        "guidance": 5.0,
        "seed": 7,
    },
    resolve=resolve,
    batch_facts=batch_facts,
    as_made=as_made,
    inputs={"image": "picture", "mask": "picture", "control": "picture"},
)
