"""How judges learn, from pictures that are drawn as they go, and where they are kept."""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from workers.training.judges import Judge, as_tensor

Lesson = tuple[Sequence[Image.Image], Sequence[int]]
"""Pictures of one size, and which of the judge's names each of them shows."""

Teacher = Callable[[np.random.Generator], Lesson]


@dataclass(frozen=True)
class Recipe:
    """How long and how a judge learns. Each lesson is drawn from the seed and its step."""

    steps: int
    batch: int = 64
    learning_rate: float = 4e-3
    side_px: int = 64
    widths: Sequence[int] = (32, 64, 128, 192)
    seed: int = 0
    version: int = 1
    """To be raised when what is learnt from changes in the code."""


def kept(
    folder: Path,
    names: Sequence[str],
    recipe: Recipe,
    learnt_from: Mapping[str, Any],
    teach: Teacher,
) -> Judge:
    """The judge that is in ``folder`` for this recipe and what it learns from; or it learns now."""
    trained = {"recipe": asdict(recipe), **learnt_from}
    canonical = json.dumps([names, trained], sort_keys=True)
    place = folder / hashlib.sha256(canonical.encode()).hexdigest()[:16]
    if not place.is_dir():
        judge = learn(names, recipe, teach)
        beside = place.with_suffix(".new")
        judge.save(beside, trained)
        beside.rename(place)
    return Judge.load(place)


def learn(names: Sequence[str], recipe: Recipe, teach: Teacher) -> Judge:
    """A judge of these names: AdamW, one cycle of the learning rate, smoothed labels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        judge = Judge(names, recipe.side_px, recipe.widths)
    judge.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.2
    )
    started = time.perf_counter()
    for step, (pictures, shown) in enumerate(_lessons(recipe, teach), 1):
        inputs = as_tensor(pictures).contiguous(memory_format=torch.channels_last)
        logits = judge(inputs)
        loss = functional.cross_entropy(logits, torch.tensor(shown), label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            right = (logits.argmax(1) == torch.tensor(shown)).float().mean().item()
            took_s = time.perf_counter() - started
            print(
                f"judge: step {step} of {recipe.steps}, {took_s:.0f} s, loss {loss.item():.3f}, "
                f"{right:.0%} of the batch right",
                file=sys.stderr,
            )
    judge.eval().to(memory_format=torch.contiguous_format)
    return judge


def _lessons(recipe: Recipe, teach: Teacher) -> Iterator[Lesson]:
    """Each drawn while the one before is learnt."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(teach, np.random.default_rng([recipe.seed, 0]))
        for step in range(1, recipe.steps + 1):
            lesson = coming.result()
            if step < recipe.steps:
                coming = pool.submit(teach, np.random.default_rng([recipe.seed, step]))
            yield lesson
