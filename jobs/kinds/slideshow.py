"""The ``slideshow`` kind: pictures in motion with a headline and a voice, without a video model."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from jobs.kinds.kind import Kind, KindRequest
from jobs.kinds.references import parse
from jobs.kinds.sizes import SizeText, check_size
from jobs.kinds.values import (
    PLACEHOLDER,
    ModelName,
    ReferenceText,
    Seed,
    Stored,
    check_makes,
)
from jobs.problems import BadInputError, Problem
from storage.models import ModelCard

DEFAULT_SECONDS = 3.0
"""A picture's share where there is no voice."""

Motion = Literal[
    "auto", "none", "zoom-in", "zoom-out", "pan-left", "pan-right", "pan-up", "pan-down"
]
Position = Literal["top", "middle", "bottom"]


class SlideshowRequest(KindRequest):
    """One film. With a voice it is as long as that; else each picture has its seconds."""

    pictures: Annotated[
        tuple[ReferenceText, ...],
        Field(
            min_length=1, max_length=20, description="What it shows, in this order, cut to shape."
        ),
    ]
    headline: Annotated[
        str, Field(max_length=300, description="The text that stands over the pictures."), Stored
    ] = ""
    headline_from: Annotated[
        ReferenceText | None,
        Field(description="A text job that writes the headline, in place of ``headline``."),
    ] = None
    voice: Annotated[
        ReferenceText | None,
        Field(description="What is heard: a job:, creative: or sample: that is a sound."),
    ] = None
    seconds: Annotated[
        float | None,
        Field(ge=0.5, le=30, allow_inf_nan=False, description="Per picture, without a voice."),
    ] = None
    model: ModelName = "slideshow"
    size: Annotated[
        SizeText | None, Field(description="WIDTHxHEIGHT in pixels.", examples=["1080x1920"])
    ] = None
    # Below ten the picture could end more than 50 ms away from the sound.
    fps: Annotated[int, Field(ge=10, le=60, description="Pictures a second.")] = 24
    motion: Annotated[
        Motion, Field(description="How each picture moves; auto: chosen by the seed.")
    ] = "auto"
    crossfade: Annotated[
        float,
        Field(
            ge=0,
            le=2,
            allow_inf_nan=False,
            description="Seconds from a picture to the next, at most half of one's time.",
        ),
    ] = 0.5
    position: Annotated[Position, Field(description="Where the headline stands.")] = "bottom"
    colour: Annotated[
        str, Field(pattern=r"^#[0-9a-fA-F]{6}$", description="The headline's, as #RRGGBB.")
    ] = "#FFFFFF"
    seed: Seed = None

    @field_validator("voice")
    @classmethod
    def _check_voice(cls, voice: str | None) -> str | None:
        made = ("job", "creative", "sample")
        if voice and voice != PLACEHOLDER and parse(voice).scheme not in made:
            raise ValueError(
                f"{voice!r}: sounds cannot be uploaded; use job:ID or creative:NAME of a speech "
                "job, or sample:voice.mp3"
            )
        return voice


def resolve(request: SlideshowRequest, card: ModelCard) -> SlideshowRequest:
    """The request with its size filled in from ``card``, and its seconds where it has no voice.

    Raises:
        BadInputError: two fields are in each other's way, or the size is none for a video.
    """
    check_makes(card, SLIDESHOW.name)
    if request.headline and request.headline_from:
        message = "there is a headline already; leave one of the two out"
        raise BadInputError(Problem(message, field="headline_from"))
    if request.voice and request.seconds is not None:
        message = "the pictures share the length of the voice; leave seconds or voice out"
        raise BadInputError(Problem(message, field="seconds"))
    size = request.size or card.default_size
    check_size(size, card)
    seconds = None if request.voice else request.seconds or DEFAULT_SECONDS
    return request.model_copy(update={"size": size, "seconds": seconds})


def batch_facts(_request: SlideshowRequest) -> dict[str, Any]:
    """Nothing: films are made one by one."""
    return {}


SLIDESHOW = Kind(
    name="slideshow",
    summary="A film (MP4) of pictures in motion with a headline and a voice-over.",
    makes="video",
    Request=SlideshowRequest,
    templates=frozenset({"pictures", "headline", "headline_from", "voice"}),
    default_model="slideshow",
    example={
        "pictures": ["sample:apple.png", "sample:mug.png"],
        "headline": "Fresh apples today",
        "voice": "sample:voice.mp3",
        "model": "slideshow",
        "size": "320x320",
        "fps": 12,
        "seed": 7,
    },
    resolve=resolve,
    batch_facts=batch_facts,
    inputs={"pictures": "picture", "headline_from": "text", "voice": "sound"},
)
