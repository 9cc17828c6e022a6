"""The ``speech`` kind: a text, spoken."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from jobs.kinds.kind import Kind, KindRequest
from jobs.kinds.values import ModelName, Seed, Stored, check_makes, read_details
from jobs.problems import BadInputError, Problem
from storage.models import ModelCard

SoundFormat = Literal["wav", "mp3"]


class SpeechDetails(BaseModel):
    """What a speech model's card says in ``details``.

    ``voices`` in the order in which the model numbers its speakers; ``language`` as a tag such as
    ``en``. Other keys are not this kind's.
    """

    model_config = ConfigDict(frozen=True)

    voices: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] = (
        "default",
    )
    language: str | None = None


class SpeechRequest(KindRequest):
    """A text to be spoken. What is left out is taken from the model's card."""

    text: Annotated[
        str,
        Field(min_length=1, max_length=4000, description="What is said, in the voice's language."),
        Stored,
    ]
    model: ModelName = "hibari"
    voice: Annotated[
        str | None,
        Field(min_length=1, description="One of the model's voices; its first when left out."),
        Stored,
    ] = None
    rate: Annotated[
        float,
        Field(ge=0.5, le=2, allow_inf_nan=False, description="How fast; 1 is the voice's own."),
    ] = 1.0
    format: Annotated[SoundFormat, Field(description="WAV is exact, MP3 is small.")] = "wav"
    seed: Seed = None


def resolve(request: SpeechRequest, card: ModelCard) -> SpeechRequest:
    """The request with its voice.

    Raises:
        BadInputError: the model has no such voice, or does not speak.
    """
    check_makes(card, SPEECH.name)
    voices = read_details(card, SpeechDetails).voices
    voice = request.voice or voices[0]
    if voice not in voices:
        raise BadInputError(
            Problem(
                f"model {card.name!r} has no voice {voice!r}, but {', '.join(voices)}",
                field="voice",
            )
        )
    return request.model_copy(update={"voice": voice})


def batch_facts(_request: SpeechRequest) -> dict[str, Any]:
    """Nothing: texts are spoken one by one, each in its own voice and at its own rate."""
    return {}


SPEECH = Kind(
    name="speech",
    summary="A text, spoken.",
    makes="sound",
    Request=SpeechRequest,
    templates=frozenset({"text"}),
    default_model="hibari",
    example={
        "text": "Crisp red apples, fresh from the orchard.",
        "model": "hibari",
        "voice": "heart",
        "rate": 1.0,
        "format": "wav",
        "seed": 7,
    },
    resolve=resolve,
    batch_facts=batch_facts,
)
