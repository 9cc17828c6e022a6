"""What each pipeline class of diffusers can do, as its source (0.42) says.

An unknown class runs one picture at a time, eager, by the arguments that its call has.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from jobs.kinds.image_details import Task
from workers.compiled import Plan


@dataclass(frozen=True)
class Capabilities:
    """What a pipeline class can do, together with its siblings that share its weights."""

    tasks: Mapping[Task, str]
    """The sibling for each task. Those with ``control`` need a component ``controlnet``."""
    max_batch: int
    """The most pictures in a call: lists of prompts, generators and input pictures."""
    compiles: Plan
    """``blocks``: those that its denoiser names as repeated, which compile once for all of them.

    ``whole`` is measured for UNets; the rest is reasoned: whole where no blocks are named.
    """
    encodes: int | None
    """How many values its ``encode_prompt`` answers."""
    embeds: tuple[str | None, ...] = ()
    """The arguments of a call that take these, so that a text need not be encoded again.

    Only of classes that pad every text to the same length, or what becomes of one would depend on
    its mates: Qwen-Image pads to the longest of a call. Z-Image answers lists.
    """
    guidance: str = "guidance_scale"
    """The argument for classifier-free guidance, or for what was distilled from it."""
    negative_prompt: bool = True
    control_image: str = "control_image"
    """The argument of ``control``; with a start picture it is ``control_image`` everywhere."""
    max_sequence_length: int | None = None
    """The most tokens of a prompt, where a call may choose how many are read."""
    tokens_before_prompt: int = 0
    """How many its chat template writes, of those that a call reads."""
    one_by_one: frozenset[Task] = frozenset()
    """Tasks that draw noise from no generator of the call, which only one picture can have."""
    flat: tuple[str, ...] = ()
    """How the names of the denoiser's layers begin that see all pictures' tokens in one row."""
    always: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of every call that has them."""


# Or the picture would be made in another size and scaled to the one that was asked for.
_EXACT_SIZE = {"use_resolution_binning": False}

_POOLED = (
    "prompt_embeds",
    "negative_prompt_embeds",
    "pooled_prompt_embeds",
    "negative_pooled_prompt_embeds",
)
_MASKED = (
    "prompt_embeds",
    "prompt_attention_mask",
    "negative_prompt_embeds",
    "negative_prompt_attention_mask",
)

# Measured on a small UNet (CPU, fp32): whole takes 0.76 of eager's time, blocks 0.92: they cover
# its attention only. (channels_last gained nothing there.)
_UNET: dict[str, Any] = {"compiles": "whole", "control_image": "image"}

FAMILIES: tuple[Capabilities, ...] = (
    Capabilities(
        tasks={
            "text-to-image": "StableDiffusionPipeline",
            "image-to-image": "StableDiffusionImg2ImgPipeline",
            "inpaint": "StableDiffusionInpaintPipeline",
            "control": "StableDiffusionControlNetPipeline",
            "control-image-to-image": "StableDiffusionControlNetImg2ImgPipeline",
            "control-inpaint": "StableDiffusionControlNetInpaintPipeline",
        },
        max_batch=64,
        encodes=2,
        embeds=("prompt_embeds", "negative_prompt_embeds"),
        **_UNET,
    ),
    Capabilities(
        tasks={
            "text-to-image": "StableDiffusionXLPipeline",
            "image-to-image": "StableDiffusionXLImg2ImgPipeline",
            "inpaint": "StableDiffusionXLInpaintPipeline",
            "control": "StableDiffusionXLControlNetPipeline",
            "control-image-to-image": "StableDiffusionXLControlNetImg2ImgPipeline",
            "control-inpaint": "StableDiffusionXLControlNetInpaintPipeline",
        },
        max_batch=32,
        encodes=4,
        embeds=_POOLED,
        **_UNET,
    ),
    Capabilities(
        tasks={
            "text-to-image": "StableDiffusion3Pipeline",
            "image-to-image": "StableDiffusion3Img2ImgPipeline",
            "inpaint": "StableDiffusion3InpaintPipeline",
            "control": "StableDiffusion3ControlNetPipeline",
        },
        one_by_one=frozenset({"control"}),  # noise of the control picture's latents
        max_batch=32,
        compiles="whole",
        encodes=4,
        embeds=_POOLED,
        max_sequence_length=512,
    ),
    Capabilities(
        tasks={
            "text-to-image": "FluxPipeline",
            "image-to-image": "FluxImg2ImgPipeline",
            "inpaint": "FluxInpaintPipeline",
            "control": "FluxControlNetPipeline",
            "control-image-to-image": "FluxControlNetImg2ImgPipeline",
            "control-inpaint": "FluxControlNetInpaintPipeline",
        },
        max_batch=16,
        compiles="blocks",
        encodes=3,
        embeds=("prompt_embeds", "pooled_prompt_embeds", None),  # ids of positions, all zeros
        negative_prompt=False,  # ignored unless true_cfg_scale undoes what guidance distilled
        max_sequence_length=512,
    ),
    Capabilities(
        tasks={"text-to-image": "PixArtAlphaPipeline"},
        max_batch=32,
        compiles="whole",
        encodes=4,
        embeds=_MASKED,
        max_sequence_length=120,
        always=_EXACT_SIZE,
    ),
    Capabilities(
        tasks={"text-to-image": "PixArtSigmaPipeline"},
        max_batch=32,
        compiles="whole",
        encodes=4,
        embeds=_MASKED,
        max_sequence_length=300,
        always=_EXACT_SIZE,
    ),
    Capabilities(
        tasks={"text-to-image": "SanaPipeline", "control": "SanaControlNetPipeline"},
        max_batch=32,
        compiles="whole",
        encodes=4,
        embeds=_MASKED,
        max_sequence_length=300,
        always=_EXACT_SIZE,
    ),
    Capabilities(
        tasks={
            "text-to-image": "QwenImagePipeline",
            "image-to-image": "QwenImageImg2ImgPipeline",
            "inpaint": "QwenImageInpaintPipeline",
            "control": "QwenImageControlNetPipeline",
        },
        max_batch=16,
        compiles="blocks",
        encodes=2,
        guidance="true_cfg_scale",
        max_sequence_length=1024,
    ),
    Capabilities(
        tasks={
            "text-to-image": "ZImagePipeline",
            "image-to-image": "ZImageImg2ImgPipeline",
            "inpaint": "ZImageInpaintPipeline",
            "control": "ZImageControlNetPipeline",
        },
        max_batch=16,
        compiles="blocks",
        encodes=2,
        max_sequence_length=512,
        tokens_before_prompt=3,  # <|im_start|>, user, line end
        flat=("all_x_embedder", "cap_embedder"),
    ),
)

CAPABILITIES: Mapping[str, Capabilities] = MappingProxyType(
    {name: family for family in FAMILIES for name in family.tasks.values()}
)
"""By class name."""

UNKNOWN = Capabilities(tasks={}, max_batch=1, compiles="eager", encodes=None)
