"""The ``vae`` kind: pictures through an autoencoder, as they are, varied, mixed or from a seed."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field

from jobs.kinds.kind import Kind, KindRequest
from jobs.kinds.sizes import SizeText, check_size
from jobs.kinds.values import ModelName, PictureFormat, ReferenceText, Seed, check_makes
from jobs.problems import BadInputError, Problem
from storage.models import ModelCard

Mode = Literal["reconstruct", "vary", "interpolate", "sample"]

TAKES: Mapping[Mode, Mapping[str, Any]] = MappingProxyType(
    {
        "reconstruct": {"image": None},
        "vary": {"image": None, "strength": 0.5},
        "interpolate": {"image": None, "other": None, "steps": 5},
        "sample": {},
    }
)
"""The fields that each mode takes beside size and seed, with their defaults; None: is required."""


class VaeRequest(KindRequest):
    """A picture, or several for ``interpolate``. The size is the card's if left out."""

    mode: Annotated[
        Mode,
        Field(
            description="reconstruct or vary image, interpolate from image to other, "
            "or sample a picture from the seed alone."
        ),
    ]
    image: Annotated[
        ReferenceText | None,
        Field(description="A picture to begin with; cut to the size's proportions."),
    ] = None
    other: Annotated[
        ReferenceText | None, Field(description="The picture that interpolate ends with.")
    ] = None
    strength: Annotated[
        float | None,
        Field(
            ge=0,
            le=1,
            allow_inf_nan=False,
            description="How much of the latent vary replaces by noise: 0 nothing, 1 all. "
            "Left out: 0.5.",
        ),
    ] = None
    steps: Annotated[
        int | None,
        Field(
            ge=2,
            le=32,
            description="How many pictures interpolate makes, both ends included. Left out: 5.",
        ),
    ] = None
    size: Annotated[
        SizeText | None, Field(description="WIDTHxHEIGHT in pixels.", examples=["64x64"])
    ] = None
    format: PictureFormat = "png"
    model: ModelName = "debug-vae"
    seed: Seed = None


def resolve(request: VaeRequest, card: ModelCard) -> VaeRequest:
    """The request with all that its mode takes filled in.

    Raises:
        BadInputError: a field is missing or of no use in that mode, or the model does not take
            that size, or is no autoencoder.
    """
    check_makes(card, VAE.name)
    mode, takes = request.mode, TAKES[request.mode]
    problems, filled = [], {}
    for name in ("image", "other", "strength", "steps"):
        given = getattr(request, name)
        if given is not None and name not in takes:
            problems.append(Problem(f"mode {mode} takes none; leave it out", field=name))
        elif given is None and name in takes:
            filled[name] = takes[name]
            if takes[name] is None:
                problems.append(Problem(f"mode {mode} needs a picture here", field=name))
    if problems:
        raise BadInputError(*problems)
    size = request.size or card.default_size
    check_size(size, card)
    return request.model_copy(update={**filled, "size": size})


def batch_facts(request: VaeRequest) -> dict[str, Any]:
    """Mode, size and steps: so many latents of one shape go through the decoder together."""
    return {"mode": request.mode, "size": request.size, "steps": request.steps}


VAE = Kind(
    name="vae",
    summary="A picture through an autoencoder: reconstructed, varied, mixed with another, new.",
    makes="picture",
    Request=VaeRequest,
    templates=frozenset({"image", "other"}),
    default_model="debug-vae",
    example={
        "mode": "vary",
        "image": "sample:apple.png",
        "strength": 0.5,
        "size": "64x64",
        "model": "debug-vae",
        "seed": 7,
    },
    resolve=resolve,
    batch_facts=batch_facts,
    inputs=MappingProxyType({"image": "picture", "other": "picture"}),
)
