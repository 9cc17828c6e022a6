"""Trainings of LoRAs for the tiny pipelines, without SQL and bucket."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from jobs.trainings.requests import FinetuneRequest
from storage.models import ModelCard
from tests.contracts.pictures import card_of
from workers.families.diffusion.finetune.train import LORA, DiffusionLora
from workers.family import Device
from workers.inputs import sample
from workers.training.checkpoints import Checkpoint
from workers.training.data import Data, PictureItem
from workers.training.loop import Loop
from workers.training.trainer import Ground, Made, Sample

TRIGGER = "acme-mug"
CPU = Device("cpu")


@dataclass
class Kept:
    """Keeps the last checkpoint in memory."""

    last: Checkpoint | None = None

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep it."""
        self.last = checkpoint

    def latest(self) -> Checkpoint | None:
        """The last one."""
        return self.last


class Heard:
    """Notes what a training tells."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, dict[str, Any]]] = []
        self.samples: list[Sample] = []

    def note(self, name: str, data: dict[str, Any]) -> None:
        """That something has happened."""
        self.notes.append((name, data))

    def show(self, step: int, shown: Sample) -> None:
        """What it makes now."""
        del step
        self.samples.append(shown)


def png(name: str = "mug.png", size: tuple[int, int] = (64, 64)) -> bytes:
    """A sample picture."""
    with Image.open(BytesIO(sample(name).data)) as image:
        file = BytesIO()
        image.convert("RGB").resize(size).save(file, "PNG")
    return file.getvalue()


def data(count: int = 2, mask: bytes | None = None, **changes: Any) -> Data:
    """The same picture several times, so that one that is held out is known as well."""
    items = [PictureItem(f"{n}.png", png(), "a mug", mask) for n in range(count)]
    return replace(Data("0" * 64, TRIGGER, pictures=items), **changes)


def ground(files: Path, name: str, given: Data | None = None, **fields: Any) -> Ground:
    """What a short training of a tiny pipeline starts from."""
    plain: dict[str, Any] = {
        "name": "mugs",
        "dataset": "mugs",
        "model": "base",
        "steps": 4,
        "batch": 2,
        "learning_rate": 1e-2,
        "schedule": "constant",
        "warmup_steps": 0,
        "rank": 4,
        "alpha": 2.0,
        "size": "32x32",
        "precision": "float32",
        "held_out": 0.5,
        "checkpoint_every": 2,
        "seed": 7,
    }
    request = FinetuneRequest.model_validate({**plain, **fields})
    return Ground(request, given or data(), CPU, 7, card=card(name), base=files)


def card(name: str) -> ModelCard:
    """Of a tiny pipeline, with few steps for its samples."""
    return replace(card_of(name), default_size="32x32", default_steps=2)


def loop_of(training: DiffusionLora, begun: Ground, kept: Kept, heard: Heard) -> Loop:
    """The loop around it, which makes way as soon as it is asked."""
    return Loop(training, begun.request, 7, kept, heard, lambda: None, give_way=lambda: True)


def trained(begun: Ground, heard: Heard | None = None) -> DiffusionLora:
    """A training at its end, that was never interrupted."""
    training = DiffusionLora(begun)
    loop = replace(loop_of(training, begun, Kept(), heard or Heard()), give_way=lambda: False)
    assert loop.run()
    return training


def trained_in_parts(begun: Ground) -> DiffusionLora:
    """The same, by as many processes as there are checkpoints."""
    kept = Kept()
    while True:
        training = DiffusionLora(begun)
        if loop_of(training, begun, kept, Heard()).run():
            return training


def tensors(training: DiffusionLora) -> dict[str, Tensor]:
    """All that has been learnt."""
    return training.learners[LORA].tensors()


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def made(training: DiffusionLora, folder: Path) -> Made:
    """What it exports."""
    return training.export(folder)
