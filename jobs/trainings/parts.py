"""What a training consists of: parts that follow each other, each with a speed of its own."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jobs.kinds.sizes import parse_size
from jobs.trainings.architectures import TextToImageArchitecture
from jobs.trainings.requests import FinetuneRequest, Training, TrainRequest
from storage.models import ModelCard


@dataclass(frozen=True)
class Part:
    """Steps that are alike.

    ``sort`` and ``digest`` are of what decides the speed, ``sort`` without what a step's ``work``
    is in proportion to: items, times pixels where these are pictures. ``says`` is that in words.
    """

    name: str
    steps: int
    items: int
    """That one step sees."""
    work: float
    says: str
    sort: str
    digest: str


def parts_of(request: Training, base: ModelCard | None) -> list[Part]:
    """The parts of a training whose request is complete, in their order."""
    assert request.steps
    assert request.batch
    if isinstance(request, FinetuneRequest):
        assert base
        return [_finetune(request, base)]
    spec = request.architecture
    if not isinstance(spec, TextToImageArchitecture):
        decides = {**_shared(request), "architecture": spec.model_dump(mode="json")}
        return [_part(spec.type, request.steps, _Load.of(request), decides)]
    return list(_text_to_image(request, spec))


def after(parts: Sequence[Part], done: int) -> list[Part]:
    """What is left of the parts when ``done`` steps have been made."""
    left = []
    for part in parts:
        made = min(done, part.steps)
        done -= made
        if part.steps > made:
            left.append(replace(part, steps=part.steps - made))
    return left


@dataclass(frozen=True)
class _Load:
    """What a step has to do. ``size`` is that of pictures; None: it sees something else."""

    batch: int
    accumulate: int = 1
    size: str | None = None

    @classmethod
    def of(cls, request: Training) -> "_Load":
        assert request.batch
        return cls(request.batch, request.accumulate, request.size)

    @property
    def items(self) -> int:
        return self.batch * self.accumulate

    @property
    def work(self) -> float:
        if self.size is None:
            return self.items
        width, height = parse_size(self.size)
        return self.items * width * height

    @property
    def says(self) -> str:
        return f"{self.items} a step" + (f" at {self.size}" if self.size else "")


def _part(name: str, steps: int, load: _Load, decides: dict[str, Any]) -> Part:
    sort = _digest({"part": name, **decides})
    return Part(
        name=name,
        steps=steps,
        items=load.items,
        work=load.work,
        says=load.says,
        sort=sort,
        digest=_digest({"sort": sort, **vars(load)}),
    )


def _digest(given: dict[str, Any]) -> str:
    text = json.dumps(given, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _shared(request: Training) -> dict[str, Any]:
    return {
        "precision": request.precision,
        "optimizer": request.optimizer,
        "ema": request.ema is not None,
    }


def _finetune(request: FinetuneRequest, base: ModelCard) -> Part:
    assert request.steps
    decides = {
        **_shared(request),
        "model": base.identity,
        "rank": request.rank,
        "gradient_checkpointing": request.gradient_checkpointing,
        "quantize": request.quantize,
        "prior": request.prior is not None,  # each step sees twice as many pictures
        "max_tokens": request.max_tokens,
    }
    return _part("finetune", request.steps, _Load.of(request), decides)


def _text_to_image(request: TrainRequest, spec: TextToImageArchitecture) -> Iterator[Part]:
    """As `workers.families.diffusion.scratch.train` has them, one after another."""
    assert request.steps
    shared = {**_shared(request), "composed": spec.compose is not None}
    if spec.judge:
        yield _part("judge", spec.judge.steps, _Load(spec.judge.batch), {**shared, "of": spec.type})
    vae = spec.autoencoder
    load = _Load(vae.batch, size=f"{vae.crop_px}x{vae.crop_px}")
    network = vae.model_dump(mode="json", exclude={"steps", "batch", "crop_px", "learning_rate"})
    # The last of its steps see whole pictures.
    yield _part("autoencoder", vae.steps, load, {**shared, **network, "size": request.size})
    decides = {
        **shared,
        "latent_channels": vae.latent_channels,
        "text_encoder": spec.text_encoder.model_dump(mode="json"),
        "denoiser": spec.denoiser.model_dump(mode="json"),
    }
    yield _part("denoiser", request.steps, _Load.of(request), decides)
