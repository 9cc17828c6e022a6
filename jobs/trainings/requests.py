"""The requests of trainings: ``finetune`` makes an adapter for a model, ``train`` a model."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from jobs.kinds.sizes import SizeText
from jobs.kinds.values import ModelName, Seed, Stored
from jobs.problems import Problem, from_errors
from jobs.trainings.architectures import ARCHITECTURES, Architecture

MAX_STEPS = 10_000_000
CHECKPOINTS = 20
"""How many checkpoints are made where a request does not say how often."""
MOST_BETWEEN = 1000
"""Steps between two checkpoints at most, unless the request wants more."""

Schedule = Literal["constant", "cosine", "linear"]
Optimizer = Literal["adamw", "adamw-8bit", "prodigy"]
Precision = Literal["auto", "float32", "bfloat16"]

Name = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="What jobs will call it, behind your tenant's name and a slash: letters, "
        "digits, '.', '_' and '-'.",
    ),
]
Rate = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]
Every = Annotated[int, Field(ge=1, le=MAX_STEPS)]
Prompt = Annotated[str, Field(min_length=1, max_length=2000), Stored]


class TrainingRequest(BaseModel):
    """What all trainings are told. What is left out is filled in when the training is submitted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    dataset: Annotated[
        str, Field(min_length=1, description="As `presswork dataset list` has it."), Stored
    ]
    steps: Annotated[
        int | None,
        Field(
            ge=1,
            le=MAX_STEPS,
            description="Of the optimiser; one sees `batch` x `accumulate` items.",
        ),
    ] = None
    batch: Annotated[int | None, Field(ge=1, le=4096, description="Items of a pass.")] = None
    accumulate: Annotated[
        int, Field(ge=1, le=1024, description="Passes whose gradients make one step.")
    ] = 1
    learning_rate: Rate | None = None
    schedule: Annotated[
        Schedule, Field(description="How the learning rate goes down after the warm-up.")
    ] = "cosine"
    warmup_steps: Annotated[int | None, Field(ge=0, le=MAX_STEPS)] = None
    optimizer: Annotated[
        Optimizer,
        Field(
            description="adamw-8bit and prodigy need the packages bitsandbytes and prodigyopt "
            "on the workers."
        ),
    ] = "adamw"
    weight_decay: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.01
    max_grad_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    ema: Annotated[
        float | None,
        Field(
            gt=0,
            lt=1,
            description="The decay of the average of weights that is kept. Left out: none.",
        ),
    ] = None
    precision: Annotated[
        Precision,
        Field(
            description="In which passes are computed; auto: bfloat16 where the device has it. "
            "Weights and optimiser stay float32."
        ),
    ] = "auto"
    held_out: Annotated[
        float,
        Field(ge=0, le=0.5, description="The share of the dataset that is only evaluated on."),
    ] = 0.0
    evaluate_every: Annotated[Every | None, Field(description="Steps between two evaluations.")] = (
        None
    )
    patience: Annotated[
        int | None,
        Field(ge=1, le=1000, description="End after so many evaluations without an improvement."),
    ] = None
    checkpoint_every: Annotated[
        Every | None, Field(description="Steps that a crash can cost at most.")
    ] = None
    sample_every: Annotated[Every | None, Field(description="Steps between two samples.")] = None
    sample_prompts: Annotated[tuple[Prompt, ...], Field(max_length=16)] = ()
    commercial: Annotated[
        bool | None,
        Field(
            description="Whether what is made may be used commercially, where the dataset's "
            "licence is your own (LicenseRef-...)."
        ),
    ] = None
    continue_from: Annotated[
        UUID | None,
        Field(
            description="A training that has succeeded, from whose end this one goes on: the "
            "same request with another name and more steps."
        ),
    ] = None
    seed: Annotated[Seed, Field(description="Derived from the name when left out.")] = None

    @model_validator(mode="after")
    def _check_evaluations(self) -> "TrainingRequest":
        if self.patience and not self.evaluate_every:
            raise ValueError("patience counts evaluations: say evaluate_every as well")
        return self

    @property
    def between_checkpoints(self) -> int:
        """Steps from one checkpoint to the next."""
        assert self.steps
        return self.checkpoint_every or min(max(self.steps // CHECKPOINTS, 1), MOST_BETWEEN)


class Prior(BaseModel):
    """Pictures of the class in general, that the model makes itself and shall not forget.

    DreamBooth's prior preservation (Ruiz et al. 2022, arXiv:2208.12242).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: Annotated[Prompt, Field(description="The class without the trigger, such as `a mug`.")]
    pictures: Annotated[int, Field(ge=1, le=1000)] = 100
    weight: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = 1.0


class FinetuneRequest(TrainingRequest):
    """A LoRA for a model."""

    model: Annotated[ModelName, Field(description="The model that it is for.")]
    rank: Annotated[int | None, Field(ge=1, le=256)] = None
    alpha: Annotated[
        float | None, Field(gt=0, le=1024, description="Scale: alpha / rank. Left out: the rank.")
    ] = None
    size: Annotated[
        SizeText | None, Field(description="The size around which pictures are scaled.")
    ] = None
    buckets: Annotated[
        bool, Field(description="Keep the pictures' proportions, in a few sizes of equal area.")
    ] = True
    caption_dropout: Annotated[
        float, Field(ge=0, le=1, description="How often the caption is left out.")
    ] = 0.1
    prior: Prior | None = None
    min_snr_gamma: Annotated[
        float | None,
        Field(
            gt=0, le=100, description="Hang et al. 2023 (arXiv:2303.09556); not for flow matching."
        ),
    ] = None
    gradient_checkpointing: Annotated[
        bool, Field(description="Less memory: passes are computed twice.")
    ] = False
    quantize: Annotated[
        Literal["none", "int8", "nf4"],
        Field(description="The weights of the model that do not learn (QLoRA); needs a GPU."),
    ] = "none"
    max_tokens: Annotated[
        int | None, Field(ge=16, le=32768, description="Of a text; longer ones are cut.")
    ] = None


class TrainRequest(TrainingRequest):
    """A model from scratch."""

    architecture: Architecture
    size: SizeText = "128x128"


Training = FinetuneRequest | TrainRequest

TRAININGS: dict[str, type[FinetuneRequest] | type[TrainRequest]] = {
    "finetune": FinetuneRequest,
    "train": TrainRequest,
}
"""The kinds of job that are trainings, and their requests."""


def problems_of(error: ValidationError, kind: str) -> Iterator[Problem]:
    """What is wrong with a training's request, by the fields as they are written."""
    for item in error.errors(include_url=False, include_context=False):
        match item["loc"]:
            # Behind the field stands the type by which pydantic has chosen the architecture.
            case ("architecture", str(name), *within) if name in ARCHITECTURES:
                for problem in from_errors([{**item, "loc": within}], ARCHITECTURES[name]):
                    field = f"architecture.{problem.field}" if problem.field else "architecture"
                    yield replace(problem, field=field)
            case _:
                yield from from_errors([item], TRAININGS[kind])
