"""What a model for pictures can do beside text to image: the ``details`` of its card."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from jobs.kinds.sizes import SizeText

Task = Literal[
    "text-to-image",
    "image-to-image",
    "inpaint",
    "control",
    "control-image-to-image",
    "control-inpaint",
]
"""Which pictures a job starts from decides its task, see `jobs.kinds.image.task_of`."""

TASKS: tuple[Task, ...] = get_args(Task)

NOISE_SCHEDULERS = (
    "ddim",
    "ddpm",
    "deis",
    "dpm++-2m",
    "dpm++-2m-karras",
    "dpm++-2m-sde",
    "dpm++-2m-sde-karras",
    "dpm2",
    "dpm2-a",
    "euler",
    "euler-a",
    "euler-karras",
    "heun",
    "lcm",
    "pndm",
    "unipc",
)
"""For models that predict the noise, or its velocity: SD, SDXL, PixArt."""

FLOW_SCHEDULERS = ("flow-match-euler", "flow-match-euler-exponential", "flow-match-euler-karras")
"""For models that predict a flow, whose pipelines choose the sigmas: SD3, FLUX, Qwen, Z-Image."""

FREE_FLOW_SCHEDULERS = ("dpm++-2m-flow", *FLOW_SCHEDULERS, "unipc-flow")
"""For models that predict a flow, whose pipelines leave the sigmas to the scheduler: Sana."""


class ImageDetails(BaseModel):
    """The keys of ``details``. What a card leaves out is the least that any model can do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: tuple[Task, ...] = ("text-to-image",)
    schedulers: tuple[str, ...] = ()
    """Those that fit the model, beside the one that it comes with."""
    negative_prompt: bool = True
    adapters: bool = True
    strength: bool = True
    """Whether it can start from a picture that is partly kept; editing models cannot."""
    max_sequence_length: int | None = Field(default=None, ge=1)
    """The most tokens of a prompt that its text encoder reads, where a job may choose."""
    sizes: tuple[SizeText, ...] = ()
    """Those that it runs at, best those that it was trained on: pictures of any other size are
    made at one of them, see `jobs.kinds.sizes.size_to_make`. None: it runs at whatever is asked."""


_PICTURES: tuple[Task, ...] = ("text-to-image", "image-to-image", "inpaint")
_CONTROL: tuple[Task, ...] = ("control", "control-image-to-image", "control-inpaint")

_STABLE_DIFFUSION = ImageDetails(tasks=TASKS, schedulers=NOISE_SCHEDULERS)
_SD3 = ImageDetails(
    tasks=(*_PICTURES, "control"), schedulers=FLOW_SCHEDULERS, max_sequence_length=512
)
# FLUX is distilled: it has guidance, but nothing to be guided away from.
_FLUX = ImageDetails(
    tasks=TASKS, schedulers=FLOW_SCHEDULERS, negative_prompt=False, max_sequence_length=512
)
_PIXART = ImageDetails(schedulers=NOISE_SCHEDULERS, adapters=False)
_SANA = ImageDetails(
    tasks=("text-to-image", "control"), schedulers=FREE_FLOW_SCHEDULERS, max_sequence_length=300
)
_QWEN = ImageDetails(
    tasks=(*_PICTURES, "control"), schedulers=FLOW_SCHEDULERS, max_sequence_length=1024
)
_Z_IMAGE = ImageDetails(
    tasks=(*_PICTURES, "control"), schedulers=FLOW_SCHEDULERS, max_sequence_length=512
)

KNOWN: Mapping[str, ImageDetails] = MappingProxyType(
    {
        "StableDiffusion": _STABLE_DIFFUSION,
        "StableDiffusionXL": _STABLE_DIFFUSION,
        "StableDiffusion3": _SD3,
        "Flux": _FLUX,
        "PixArtAlpha": _PIXART.model_copy(update={"max_sequence_length": 120}),
        "PixArtSigma": _PIXART.model_copy(update={"max_sequence_length": 300}),
        "Sana": _SANA,
        "QwenImage": _QWEN,
        "ZImage": _Z_IMAGE,
    }
)
"""By the name of a pipeline class, without what says its task."""


def details_of(pipeline: str) -> dict[str, Any]:
    """What to write into the card of a model, by its pipeline class (``model_index.json``).

    ``{}`` for a class that is not known: it makes pictures from text, without a choice of
    schedulers. Only a model that was saved with its ControlNet has the tasks with ``control``.
    """
    name = pipeline.removesuffix("Pipeline")
    inpaints = name.endswith("Inpaint")
    for ending in ("Inpaint", "Img2Img"):
        name = name.removesuffix(ending)
    with_control = name.endswith("ControlNet")
    known = KNOWN.get(name.removesuffix("ControlNet"))
    if known is None:
        return {}
    tasks = [task for task in known.tasks if with_control or task not in _CONTROL]
    if inpaints:  # a UNet that was trained for it has more inputs, and can do nothing else
        tasks = [task for task in tasks if task.endswith("inpaint")]
    known = known.model_copy(update={"tasks": tuple(tasks)})
    return known.model_dump(mode="json", exclude={"sizes"})  # which no class says
