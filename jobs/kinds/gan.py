"""The ``gan`` kind: small pictures from a seed, each with the discriminator's score."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from jobs.kinds.kind import Kind, KindRequest
from jobs.kinds.values import (
    ModelName,
    PictureFormat,
    Seed,
    check_makes,
    check_storable,
    read_details,
)
from jobs.problems import BadInputError, Problem, nearest
from storage.models import ModelCard


class GanDetails(BaseModel):
    """What the card of a GAN says in its ``details``: the names of the model's classes, if any."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    labels: tuple[str, ...] = ()


class GanRequest(KindRequest):
    """Pictures of the model's own size."""

    label: Annotated[
        str | int | None,
        Field(description="A class of the model, by name or number. Left out: by the seed."),
    ] = None
    truncation: Annotated[
        float | None,
        Field(
            ge=0.05,
            le=10,
            allow_inf_nan=False,
            description="The latent's values beyond this are drawn again: less varied, more "
            "typical pictures. Left out: none are.",
        ),
    ] = None
    min_score: Annotated[
        float | None,
        Field(
            ge=0,
            le=1,
            allow_inf_nan=False,
            description="Draw a picture again while the discriminator scores it lower. A later "
            "draw has a seed of its own, the fact latent_seed: without min_score it makes the "
            "same picture at once.",
        ),
    ] = None
    max_draws: Annotated[
        int, Field(ge=1, le=100, description="How often at most, for each picture.")
    ] = 16
    num_images: Annotated[
        int,
        Field(
            ge=1,
            le=16,
            description="How many pictures. Each has the next seed: the second is what `seed` + 1 "
            "would give.",
        ),
    ] = 1
    format: PictureFormat = "png"
    model: ModelName = "debug-gan"
    seed: Seed = None

    @field_validator("label", mode="before")
    @classmethod
    def _check_label(cls, label: object) -> object:
        # Not left to the union: it would report one error per alternative and take true for 1.
        if isinstance(label, str):
            check_storable(label)
        elif isinstance(label, bool) or not isinstance(label, int | None):
            raise ValueError("must be the name or the number of a label")  # noqa: TRY004 (pydantic)
        return label


def resolve(request: GanRequest, card: ModelCard) -> GanRequest:
    """The request with its label by name.

    Raises:
        BadInputError: the model has no such label, or does not make these.
    """
    check_makes(card, GAN.name)
    labels = read_details(card, GanDetails).labels
    label = request.label
    if isinstance(label, int) and 0 <= label < len(labels):
        return request.model_copy(update={"label": labels[label]})
    if label is None or label in labels:
        return request
    if not labels:
        message = f"model {card.name!r} has no labels; leave it out"
    elif isinstance(label, int):
        message = f"model {card.name!r} has the labels 0 to {len(labels) - 1}, not {label}"
    else:
        message = f"model {card.name!r} has no label {label!r}; {nearest(label, labels)}"
    raise BadInputError(Problem(message, field="label"))


def batch_facts(_: GanRequest) -> dict[str, Any]:
    """Nothing beyond the model: each picture has its own latent, label and threshold."""
    return {}


GAN = Kind(
    name="gan",
    summary="Small pictures from a seed, scored by the model's own discriminator.",
    makes="picture",
    Request=GanRequest,
    templates=frozenset(),
    default_model="debug-gan",
    example={"label": "rings", "model": "debug-gan", "truncation": 0.8, "seed": 7},
    resolve=resolve,
    batch_facts=batch_facts,
)
