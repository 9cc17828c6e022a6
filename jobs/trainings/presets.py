"""What a training does where its request does not say: by what it trains."""

from dataclasses import dataclass
from typing import Any

from jobs.trainings.requests import FinetuneRequest, Training
from storage.datasets import Dataset


@dataclass(frozen=True)
class Preset:
    """The usual values for one sort of model; ``steps_per_item`` of the dataset, within limits."""

    batch: int
    learning_rate: float
    steps_per_item: int
    steps: tuple[int, int]
    rank: int | None = None
    size: str | None = None
    max_tokens: int | None = None


SCRATCH = {
    "gan": Preset(batch=64, learning_rate=2e-4, steps_per_item=100, steps=(2_000, 50_000)),
    "vae": Preset(batch=32, learning_rate=1e-3, steps_per_item=20, steps=(2_000, 50_000)),
    "text-to-image": Preset(
        batch=64, learning_rate=1e-3, steps_per_item=40, steps=(5_000, 100_000)
    ),
}
"""Of trainings from scratch."""


def filled(request: Training, dataset: Dataset, preset: Preset | None) -> Training:
    """The request with all filled in that a training asks for."""
    if preset is None:
        assert not isinstance(request, FinetuneRequest)
        preset = SCRATCH[request.architecture.type]
    least, most = preset.steps
    steps = request.steps or min(max(dataset.count * preset.steps_per_item, least), most)
    values: dict[str, Any] = {
        "steps": steps,
        "batch": request.batch or min(preset.batch, dataset.count),
        "learning_rate": request.learning_rate or preset.learning_rate,
        "warmup_steps": min(100, steps // 10)
        if request.warmup_steps is None
        else request.warmup_steps,
    }
    if isinstance(request, FinetuneRequest):
        rank = request.rank or preset.rank
        values |= {
            "rank": rank,
            "alpha": request.alpha or rank,
            "size": request.size or preset.size,
            "max_tokens": request.max_tokens or preset.max_tokens,
        }
    return request.model_copy(update=values)
