"""Pictures from the model, through the product's own code, one a prompt and none left out."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID

from PIL import Image

from benchmarks.figures import timed
from benchmarks.starter.prompts import Prompt
from jobs.kinds.image import IMAGE
from jobs.kinds.image_details import details_of
from storage.models import BUILT_IN
from workers.families.diffusion import Diffusion
from workers.family import Adapter, Device, Item

FAMILY = Diffusion()


@dataclass(frozen=True)
class Asked:
    """How pictures are made. The scheduler is the one in the model's folder."""

    device: Device
    size_px: int = 128
    steps: int = 20
    guidance: float = 3.0
    batch: int = 32


class Starter:
    """A model's folder as diffusers saves it, loaded to make pictures."""

    def __init__(self, files: Path, asked: Asked) -> None:
        self.asked = asked
        size = f"{asked.size_px}x{asked.size_px}"
        self._card = replace(
            BUILT_IN["debug-diffusion"],
            name="starter",
            details=details_of("StableDiffusionPipeline"),
            default_size=size,
            default_steps=asked.steps,
            default_guidance=asked.guidance,
        )
        self.model = FAMILY.load(files, self._card, asked.device)

    def pictures(self, prompts: Sequence[Prompt], adapter: Path | None = None) -> list[Image.Image]:
        """The RGB picture of each prompt, with an adapter's folder on top of the model."""
        found: list[Image.Image] = []
        with timed() as took_s:
            for start in range(0, len(prompts), self.asked.batch):
                found += self._batch(prompts[start : start + self.asked.batch], adapter)
        if prompts:
            each_s = took_s() / len(prompts)
            print(f"{len(prompts)} pictures, {each_s:.2f} s each", file=sys.stderr)
        return found

    def _batch(self, prompts: Sequence[Prompt], adapter: Path | None) -> list[Image.Image]:
        items = [self._item(prompt, adapter) for prompt in prompts]
        made = dict(FAMILY.generate(self.model, items, _Heedless()))
        found = []
        for index in range(len(items)):
            outputs = made[index]
            if not isinstance(outputs, list):
                raise SystemExit(f"{prompts[index].text!r}: {outputs.message}")
            with Image.open(BytesIO(outputs[0].data)) as image:
                found.append(image.convert("RGB"))
        return found

    def _item(self, prompt: Prompt, adapter: Path | None) -> Item:
        fields: dict[str, Any] = {"prompt": prompt.text, "model": "starter", "seed": prompt.seed}
        used = () if adapter is None else (Adapter(str(adapter), 1.0, adapter),)
        request = IMAGE.resolve(IMAGE.Request.model_validate(fields), self._card)
        return Item(UUID(int=prompt.seed), request, adapters=used)


class _Heedless:
    """A context that never stops."""

    def step(self, done: int, total: int) -> None:
        """Go on."""
