"""What is said of a dataset when it is added, whichever door it comes through."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from jobs.datasets import triggers
from jobs.kinds.values import Stored
from jobs.problems import Problem, nearest
from jobs.registry.specs import Text
from storage.licences import LICENCES, without_derivatives

MAX_CAPTION_CHARS = 2000
OWN_LICENCE = "LicenseRef-"
"""How SPDX begins the names of licences that it does not list, such as a customer's own terms."""


def _licence(licence: str) -> str:
    if licence not in LICENCES and not licence.startswith(OWN_LICENCE):
        raise ValueError(
            f"Presswork does not know {licence!r} ({nearest(licence, list(LICENCES))}); what is "
            "your own, or has terms of its own, is called LicenseRef-NAME"
        )
    return licence


def _trigger(trigger: str) -> str:
    wrong = triggers.wrong(trigger)
    if wrong:
        raise ValueError(wrong)
    return trigger


def _caption(caption: str) -> str:
    if not caption.strip():
        raise ValueError("must not be empty")
    return caption.strip()


class ContentSpec(BaseModel):
    """How the content of a dataset is to be read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trigger: Annotated[
        Annotated[str, AfterValidator(_trigger)] | None,
        Field(description="The word, in the captions, that shall call up what is learnt."),
    ] = None
    caption: Annotated[
        Annotated[str, Field(max_length=MAX_CAPTION_CHARS), Stored, AfterValidator(_caption)]
        | None,
        Field(description="For pictures that have none."),
    ] = None
    allow_duplicates: Annotated[
        bool, Field(description="Take items that are there more than once.")
    ] = False


class DatasetSpec(ContentSpec):
    """A dataset to be added."""

    name: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
            description="What trainings call it: letters, digits, '.', '_' and '-'. It never "
            "changes its meaning: other content gets another name.",
        ),
    ]
    licence: Annotated[
        Text,
        AfterValidator(_licence),
        Field(description="Its SPDX identifier, or LicenseRef-NAME for terms of your own."),
    ]
    consent: Annotated[
        Text,
        Field(description="Who agreed to the use in training, or that no person is shown."),
    ]
    attribution: Annotated[
        Text | None, Field(description="Whom what is made with it must name.")
    ] = None


def licence_problems(spec: DatasetSpec) -> Iterator[Problem]:
    """What the licence demands and the rest does not give."""
    for licence in without_derivatives(spec.licence):
        message = f"{licence} forbids to pass on what was adapted: nothing may be trained on it"
        yield Problem(message, field="licence")
    rule = LICENCES.get(spec.licence)
    if rule and rule.attribution and not rule.words and not spec.attribution:
        message = f"{spec.licence} wants the author named: say whom"
        yield Problem(message, field="attribution")
