"""Values that the requests of every kind are made of."""

import hashlib
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from jobs.kinds import references
from jobs.problems import BadInputError, Problem, from_validation
from storage.models import ModelCard

D = TypeVar("D", bound=BaseModel)

MAX_SEED = 2**53 - 1
"""The largest integer that JSON readers agree on."""


def check_storable(text: str) -> None:
    """ValueError if PostgreSQL or UTF-8 cannot hold ``text`` (NUL, lone surrogates)."""
    if "\0" in text:
        raise ValueError("holds a NUL character, which cannot be stored")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("holds half of a surrogate pair, which is not text") from error


def derived_seed(*parts: str) -> int:
    """32 bits that depend on every one of ``parts`` and on nothing else."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _stored(text: str) -> str:
    check_storable(text)
    return text


def _reference(text: str) -> str:
    check_storable(text)
    references.parse(text)
    return text


Stored = AfterValidator(_stored)
"""Text that can be stored. It stands behind the limits of a field, or these read worse."""

ReferenceText = Annotated[str, AfterValidator(_reference)]
"""A reference to a file, see `jobs.kinds.references`."""

Seed = Annotated[
    int | None, Field(ge=0, le=MAX_SEED, description="Derived from the job's id when left out.")
]

PictureFormat = Annotated[
    Literal["png", "webp", "jpeg"],
    Field(description="PNG is exact, WebP and JPEG are small. JPEG shows white for transparent."),
]

BANK_DETAIL = "bank"
"""The detail of an adapter's card: whether jobs with it share batches with other adapters'."""

MADE_BY = "made_by"
"""The detail of a trained model's card that says from what it was made: no kind's own."""

PLACEHOLDER = "placeholder"
"""What stands for a template where the fields around it are checked."""

ModelName = Annotated[
    str, Field(min_length=1, description="A registered model; see GET /v1/kinds."), Stored
]


class AdapterUse(BaseModel):
    """An adapter (LoRA) on top of the model, and how strongly it works."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1, description="A registered adapter."), Stored]
    weight: Annotated[float, Field(ge=-4, le=4, allow_inf_nan=False)] = 1.0


def check_makes(card: ModelCard, kind: str) -> None:
    """BadInputError if ``card`` is not a model for jobs of that kind."""
    if card.kind != kind:
        raise BadInputError(
            Problem(f"model {card.name!r} is for {card.kind} jobs, not {kind}", field="model")
        )


class BadCardError(BadInputError, ValueError):
    """The model's own card is wrong: refused at submit, and by a family that loads it."""


def read_details(card: ModelCard, kind: type[D]) -> D:
    """What only its kind asks of ``card``; BadCardError: it says what such a model cannot have."""
    try:
        return kind.model_validate(
            {name: value for name, value in card.details.items() if name != MADE_BY}
        )
    except ValidationError as error:
        said = "; ".join(
            f"details.{problem}" if problem.field else f"details: {problem}"
            for problem in from_validation(error, kind)
        )
        message = f"the card of model {card.name!r} is wrong: {said}"
        raise BadCardError(Problem(message, field="model")) from error
