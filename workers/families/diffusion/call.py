"""The arguments of one pipeline call."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from jobs.kinds.image import ImageRequest
from workers import pictures
from workers.families.diffusion.capabilities import Capabilities
from workers.families.diffusion.siblings import Sibling
from workers.family import Item


@dataclass(frozen=True)
class Shot:
    """One picture to make: the ``number``-th of an item, which is the ``index``-th."""

    index: int
    item: Item
    number: int
    is_padding: bool = False
    """Whether it only fills a call up, for a size that calls have."""

    @property
    def request(self) -> ImageRequest:
        """The item's request."""
        assert isinstance(self.item.request, ImageRequest)
        return self.item.request

    @property
    def seed(self) -> int:
        """Each picture of an item has the next seed."""
        return self.item.seed + self.number

    def picture(
        self, field: str, size: tuple[int, int], within: tuple[int, int] | None = None
    ) -> Image.Image:
        """The picture that a field of the request names, see `pictures.covering`."""
        return pictures.covering(self.item.inputs[field][0], size, within)

    def mask(self, size: tuple[int, int], within: tuple[int, int] | None = None) -> Image.Image:
        """The mask, by the same crop."""
        return pictures.covering_mask(self.item.inputs["mask"][0], size, within)


def arguments(
    capabilities: Capabilities, sibling: Sibling, shots: Sequence[Shot], size: tuple[int, int]
) -> dict[str, Any]:
    """What to call the pipeline with; ``shots`` are as many as it takes, and share a batch.

    ``size`` is what they are made at, in pixels.
    """
    takes = sibling.arguments
    request = shots[0].request
    width, height = size
    each: dict[str, list[Any]] = {
        "prompt": [shot.request.prompt for shot in shots],
        "generator": [torch.Generator("cpu").manual_seed(shot.seed) for shot in shots],
        **_negative_prompts(capabilities, sibling, shots),
    }
    if request.image is not None:
        each["image"] = [shot.picture("image", size) for shot in shots]
    if request.mask is not None:
        each["mask_image"] = [shot.mask(size) for shot in shots]
    if request.control is not None:
        name = capabilities.control_image if request.image is None else "control_image"
        each[name] = [shot.picture("control", size) for shot in shots]
    once = {
        "width": width,
        "height": height,
        "num_inference_steps": request.steps,
        _guidance(capabilities, sibling): request.guidance,
        "strength": request.strength,
        "controlnet_conditioning_scale": request.controlnet_scale,
        "max_sequence_length": request.max_sequence_length,
        "output_type": "pil",
        **capabilities.always,
    }
    return {
        **(each if capabilities.tasks else {name: values[0] for name, values in each.items()}),
        **{name: value for name, value in once.items() if name in takes and value is not None},
    }


def _guidance(capabilities: Capabilities, sibling: Sibling) -> str:
    if capabilities.tasks:
        return capabilities.guidance
    # A class that has both, and gives one of them no value, is guided by the other.
    distilled = sibling.arguments.get("guidance_scale")
    if "true_cfg_scale" in sibling.arguments and (distilled is None or distilled.default is None):
        return "true_cfg_scale"
    return "guidance_scale"


def _negative_prompts(
    capabilities: Capabilities, sibling: Sibling, shots: Sequence[Shot]
) -> dict[str, list[str]]:
    if not capabilities.negative_prompt or "negative_prompt" not in sibling.arguments:
        return {}
    texts = [shot.request.negative_prompt for shot in shots]
    # Without one, those that are guided by the true scale are not guided at all.
    empty = " " if _guidance(capabilities, sibling) == "true_cfg_scale" else ""
    return {"negative_prompt": [text or empty for text in texts]} if any(texts) or empty else {}
