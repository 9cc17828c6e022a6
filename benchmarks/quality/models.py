"""Each level on a model, against the exact pictures of the same seeds and prompts."""

import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, get_args
from uuid import uuid4

import numpy as np
from PIL import Image

from benchmarks.quality.rows import Pictures, Row, compared
from jobs.kinds.image import IMAGE, Quality
from jobs.kinds.image_details import details_of
from storage.models import BUILT_IN, ModelCard
from workers.families.diffusion import Diffusion
from workers.families.diffusion.load import Loaded
from workers.families.diffusion.quality import quantized
from workers.family import Device, Item

FAMILY = Diffusion()
LEVELS: Sequence[Quality] = get_args(Quality)
SUBJECTS = ("a mug", "a red apple", "running shoes on wet stone", "a garden chair in the sun")


@dataclass(frozen=True)
class Asked:
    """What pictures of models are to be made, where, and how often they are timed."""

    device: Device
    size: str
    steps: int
    guidance: float
    images: int
    rounds: int


class Evaluations:
    """Counts the calls of a model's denoiser."""

    def __init__(self, model: Loaded) -> None:
        self.count = 0
        for module in (model.denoiser.own, *model.denoiser._variants.values()):  # noqa: SLF001
            module.register_forward_pre_hook(self._add)

    def _add(self, *_: Any) -> None:
        self.count += 1


def of_model(files: Path, asked: Asked) -> Iterator[Row]:
    """Each level against exact, and int8 alone, on the same seeds and prompts."""
    name = json.loads((files / "model_index.json").read_text(encoding="utf-8"))["_class_name"]
    card = replace(
        BUILT_IN["debug-diffusion"],
        name=name,
        details=details_of(name),
        default_size=asked.size,
        default_steps=asked.steps,
        default_guidance=asked.guidance,
        max_side_px=4096,
    )
    model = FAMILY.load(files, card, asked.device)
    try:
        yield from _of_loaded(model, asked)
    finally:
        FAMILY.unload(model)


def _of_loaded(model: Loaded, asked: Asked) -> Iterator[Row]:
    eight_bits = model.denoiser.variant("int8", lambda module: quantized(module, "int8"))
    pictures: dict[str, Pictures] = {}
    work: dict[str, int] = {}

    def make(way: str) -> float:
        level: Quality = "exact" if way == "int8 alone" else way  # type: ignore[assignment]
        module = eight_bits if way == "int8 alone" else model.denoiser.own
        started = time.perf_counter()
        with model.denoiser.used(model.pipeline, module):
            pictures[way] = _pictures(model, asked, level)
        return time.perf_counter() - started

    ways = [*LEVELS, "int8 alone"]
    for way in ways:  # which also makes the variants
        make(way)
    counted = Evaluations(model)
    took_s: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(asked.rounds):
        for way in ways:
            counted.count = 0
            took_s[way].append(make(way))
            work[way] = counted.count
    middle = {way: statistics.median(values) for way, values in took_s.items()}
    for way in ways[1:]:
        row = compared(
            model.card.name, way, pictures[way], pictures["exact"], work[way] / work["exact"]
        )
        yield replace(row, speed=middle["exact"] / middle[way])


def _pictures(model: Loaded, asked: Asked, level: Quality) -> Pictures:
    items = [
        _item(model.card, level, f"{SUBJECTS[seed % len(SUBJECTS)]}, {seed}", seed)
        for seed in range(asked.images)
    ]
    made = dict(FAMILY.generate(model, items, _Heedless()))
    found = []
    for index in range(len(items)):
        outputs = made[index]
        assert isinstance(outputs, list), outputs
        with Image.open(BytesIO(outputs[0].data)) as image:
            found.append(np.asarray(image, dtype=np.float64) / 255)
    return np.array(found)


def _item(card: ModelCard, level: Quality, prompt: str, seed: int) -> Item:
    fields = {"prompt": prompt, "model": card.name, "seed": seed, "quality": level}
    return Item(uuid4(), IMAGE.resolve(IMAGE.Request.model_validate(fields), card))


class _Heedless:
    """A context that never stops."""

    def step(self, done: int, total: int) -> None:
        """Go on."""
