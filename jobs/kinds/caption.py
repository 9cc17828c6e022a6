"""The ``caption`` kind: what a picture shows, in a sentence."""

from typing import Annotated, Any

from pydantic import Field

from jobs.kinds.kind import Kind, KindRequest
from jobs.kinds.values import ModelName, ReferenceText, Seed, check_makes
from storage.models import ModelCard


class CaptionRequest(KindRequest):
    """One picture to describe. The likeliest words are taken, so the seed makes no difference."""

    image: Annotated[ReferenceText, Field(examples=["sample:mug.png"])]
    max_tokens: Annotated[int, Field(ge=1, le=256, description="Of the caption.")] = 32
    model: ModelName = "debug-caption"
    seed: Seed = None


def resolve(request: CaptionRequest, card: ModelCard) -> CaptionRequest:
    """There is nothing to fill in. Raises BadInputError: the model is for something else."""
    check_makes(card, CAPTION.name)
    return request


def batch_facts(request: CaptionRequest) -> dict[str, Any]:
    """All captions of a call are written to the same length at most."""
    return {"max_tokens": request.max_tokens}


CAPTION = Kind(
    name="caption",
    summary="What a picture shows, in a sentence.",
    makes="text",
    Request=CaptionRequest,
    templates=frozenset({"image"}),
    inputs={"image": "picture"},
    default_model="debug-caption",
    example={"image": "sample:mug.png", "model": "debug-caption", "max_tokens": 12},
    resolve=resolve,
    batch_facts=batch_facts,
)
