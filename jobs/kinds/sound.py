"""The ``sound`` kind: music or a noise from a text prompt."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from jobs.kinds.kind import Kind, KindRequest
from jobs.kinds.speech import SoundFormat
from jobs.kinds.values import ModelName, Seed, Stored, check_makes, read_details
from jobs.problems import BadInputError, Problem
from storage.models import ModelCard


class SoundDetails(BaseModel):
    """What a sound model's card says in ``details``. Other keys are not this kind's."""

    model_config = ConfigDict(frozen=True)

    default_duration_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0
    max_duration_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10.0

    @model_validator(mode="after")
    def _check_default(self) -> "SoundDetails":
        if self.default_duration_s > self.max_duration_s:
            raise ValueError("default_duration_s is more than max_duration_s")
        return self


class SoundRequest(KindRequest):
    """One sound. What is left out is taken from the model's card."""

    prompt: Annotated[
        str, Field(min_length=1, max_length=4000, description="What is heard."), Stored
    ]
    negative_prompt: Annotated[
        str, Field(max_length=4000, description="What must not be heard."), Stored
    ] = ""
    model: ModelName = "debug-sound"
    duration_s: Annotated[
        float | None, Field(ge=0.1, le=600, allow_inf_nan=False, description="Seconds.")
    ] = None
    steps: Annotated[int | None, Field(ge=1, le=1000, description="Denoising steps.")] = None
    guidance: Annotated[
        float | None,
        Field(ge=0, le=100, allow_inf_nan=False, description="Classifier-free guidance scale."),
    ] = None
    format: Annotated[SoundFormat, Field(description="WAV is exact, MP3 is small.")] = "wav"
    seed: Seed = None


def resolve(request: SoundRequest, card: ModelCard) -> SoundRequest:
    """The request with duration, steps and guidance filled in from ``card``.

    Raises:
        BadInputError: it is longer than the model can, or the model does not make sounds.
    """
    check_makes(card, SOUND.name)
    details = read_details(card, SoundDetails)
    duration_s = request.duration_s or details.default_duration_s
    if duration_s > details.max_duration_s:
        raise BadInputError(
            Problem(
                f"{duration_s:g}: model {card.name!r} makes at most {details.max_duration_s:g} s",
                field="duration_s",
            )
        )
    return request.model_copy(
        update={
            "duration_s": duration_s,
            "steps": card.default_steps if request.steps is None else request.steps,
            "guidance": card.default_guidance if request.guidance is None else request.guidance,
        }
    )


def batch_facts(request: SoundRequest) -> dict[str, Any]:
    """Duration, steps and guidance: one pipeline call has one of each."""
    return {
        "duration_s": request.duration_s,
        "steps": request.steps,
        "guidance": request.guidance,
    }


SOUND = Kind(
    name="sound",
    summary="Music or a noise from a text prompt.",
    makes="sound",
    Request=SoundRequest,
    templates=frozenset({"prompt", "negative_prompt"}),
    default_model="debug-sound",
    example={
        "prompt": "somebody bites into an apple",
        "model": "debug-sound",
        "duration_s": 1.0,
        "steps": 4,
        "guidance": 3.0,
        "format": "wav",
        "seed": 7,
    },
    resolve=resolve,
    batch_facts=batch_facts,
)
