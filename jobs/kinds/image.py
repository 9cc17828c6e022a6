"""The ``image`` kind: a picture from a text prompt."""

import re
from typing import Annotated, Any

from pydantic import ConfigDict, Field, field_validator

from jobs.kinds.kind import Kind, KindRequest
from jobs.kinds.values import MAX_SEED, check_storable
from jobs.problems import BadInputError, Problem
from storage.models import ModelCard


class ImageRequest(KindRequest):
    """One picture. What is left out is taken from the model's card."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: Annotated[
        str, Field(min_length=1, max_length=4000, description="What the picture shows.")
    ]
    negative_prompt: Annotated[
        str, Field(max_length=4000, description="What it must not show.")
    ] = ""
    model: Annotated[
        str, Field(min_length=1, description="A registered model; see GET /v1/kinds.")
    ] = "debug-diffusion"
    size: Annotated[
        str | None, Field(description="WIDTHxHEIGHT in pixels.", examples=["128x128"])
    ] = None
    steps: Annotated[int | None, Field(ge=1, le=1000, description="Denoising steps.")] = None
    guidance: Annotated[
        float | None,
        Field(ge=0, le=100, allow_inf_nan=False, description="Classifier-free guidance scale."),
    ] = None
    seed: Annotated[
        int | None,
        Field(ge=0, le=MAX_SEED, description="Derived from the job's id when left out."),
    ] = None

    @field_validator("size")
    @classmethod
    def _check_size(cls, size: str | None) -> str | None:
        if size is not None:
            parse_size(size)
        return size

    @field_validator("prompt", "negative_prompt", "model")
    @classmethod
    def _check_text(cls, text: str) -> str:
        check_storable(text)
        return text


def parse_size(size: str) -> tuple[int, int]:
    """``"640x480"`` as (width, height) in pixels; ValueError if it is not of that form."""
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", size)
    if not match:
        raise ValueError(f"{size!r} is not WIDTHxHEIGHT, for example 512x512")
    return int(match[1]), int(match[2])


def resolve(request: ImageRequest, card: ModelCard) -> ImageRequest:
    """The request with size, steps and guidance filled in from ``card``.

    Raises:
        BadInputError: the model does not take that size, or does not make images.
    """
    if card.kind != IMAGE.name:
        raise BadInputError(
            Problem(f"model {card.name!r} makes {card.kind}, not images", field="model")
        )
    size = request.size or card.default_size
    width, height = parse_size(size)
    multiple = card.size_multiple_px
    for side in (width, height):
        if side % multiple:
            lower = max(side // multiple * multiple, multiple)
            raise BadInputError(
                Problem(
                    f"{size}: model {card.name!r} takes sides that are multiples of {multiple}; "
                    f"nearest to {side}: {lower} or {lower + multiple}",
                    field="size",
                )
            )
        if side > card.max_side_px:
            raise BadInputError(
                Problem(
                    f"{size}: model {card.name!r} takes at most {card.max_side_px} px a side",
                    field="size",
                )
            )
    return request.model_copy(
        update={
            "size": size,
            "steps": card.default_steps if request.steps is None else request.steps,
            "guidance": card.default_guidance if request.guidance is None else request.guidance,
        }
    )


def batch_facts(request: ImageRequest) -> dict[str, Any]:
    """Size, steps and guidance: one pipeline call has one of each. Prompts and seeds differ."""
    return {"size": request.size, "steps": request.steps, "guidance": request.guidance}


IMAGE = Kind(
    name="image",
    summary="A picture from a text prompt.",
    Request=ImageRequest,
    templates=frozenset({"prompt", "negative_prompt"}),
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
)
