"""What is said of a model when it is added, whichever door it comes through."""

from collections.abc import Mapping
from datetime import date
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from jobs.kinds.values import check_storable
from jobs.problems import nearest
from storage.models import BUILT_IN

FAMILY_KINDS: Mapping[str, str] = MappingProxyType(
    {
        card.family: card.kind
        for card in BUILT_IN.values()
        if card.source.startswith("builtin:debug-")
    }
)
"""The families that models can be added to, and the kind of job that each of them is for."""


def _stored(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    check_storable(text)
    return text


def _pool(pool: str) -> str:
    if "," in pool or pool != pool.strip():
        raise ValueError("must be one name, without commas or spaces around it")
    return pool


def _family(family: str) -> str:
    if family not in FAMILY_KINDS:
        raise ValueError(f"unknown family {family!r}; {nearest(family, list(FAMILY_KINDS))}")
    return family


Text = Annotated[str, Field(max_length=1000), AfterValidator(_stored)]
Name = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="What jobs call it: letters, digits, '.', '_' and '-'. It never changes its "
        "meaning: other files get another name.",
    ),
]


class ModelSpec(BaseModel):
    """A model to be added, or with ``adapter_for`` an adapter (LoRA) for one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    source: Annotated[
        Text,
        Field(
            description="dir:PATH on the machine that adds it, hub:ORG/NAME@REVISION, s3:PREFIX "
            "in the bucket, or pip:PACKAGE."
        ),
    ]
    licence: Annotated[Text, Field(description="Its SPDX identifier.")]
    commercial: Annotated[
        bool | None, Field(description="Whether it may be used commercially, if not as known.")
    ] = None
    attribution: Annotated[
        Text | None, Field(description="The text that outputs must come with.")
    ] = None
    licence_until: Annotated[date | None, Field(description="The last day it is good for.")] = None
    family: Annotated[str, AfterValidator(_family), Field(description="The code that runs it.")] = (
        "diffusion"
    )
    kind: Annotated[
        str | None, Field(description="The kind of its jobs; left out: the family's.")
    ] = None
    adapter_for: Annotated[
        str | None, Field(description="It is an adapter, and this is the model that it is for.")
    ] = None
    pool: Annotated[
        Text,
        AfterValidator(_pool),
        Field(description="The workers that run it: it is in their PRESSWORK_POOL."),
    ] = "default"
    size: Annotated[str, Field(description="The default size in pixels.")] = "512x512"
    steps: Annotated[int, Field(ge=1)] = 30
    guidance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 7.5
    size_multiple: Annotated[
        int | None, Field(ge=1, description="Sides must be multiples of this many pixels.")
    ] = None
    max_side: Annotated[int, Field(ge=1, description="The longest side in pixels.")] = 2048
    details: Annotated[dict[str, Any], Field(description="What only its kind asks for.")] = {}
