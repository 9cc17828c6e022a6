"""The figures of a model's pictures, and of the judge that reads them."""

import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.figures import Figure
from benchmarks.starter import cut_outs as cuts
from benchmarks.starter import judge as judging
from benchmarks.starter import prompts as asking
from benchmarks.starter.cut_outs import CutOuts
from benchmarks.starter.generating import Starter
from benchmarks.starter.prompts import Prompt
from workers.training.compositions import background_of
from workers.training.judges import Judge

SHOWN = 5


@dataclass(frozen=True)
class Scale:
    """How many pictures are made."""

    prompts: int = asking.COUNT
    varied: int = 24
    """Prompts of which several seeds are compared."""
    seeds: int = 8
    examined: int = 1030
    """Pictures that the judge is examined on."""


def of_judge(
    judge: Judge, cut_outs: CutOuts, autoencoder: Path | None, size_px: int, scale: Scale
) -> Iterator[Figure]:
    """Its ceiling: how much it reads right where all is right."""
    exam = judging.examined(cut_outs, scale.examined, size_px)
    real = [one.picture for one in exam]
    items, colours = [one.item for one in exam], [one.colour for one in exam]
    sights = {"compositions": (real, 0.97)}
    if autoencoder is not None:
        made = judging.reconstructed(judging.autoencoder_in(autoencoder), real)
        sights["reconstructions"] = (made, 0.95)
    for name, (pictures, target) in sights.items():
        yield share(f"judge_on_{name}", judging.names_read(judge, pictures), items, target)
    for name, (pictures, _) in sights.items():
        yield share(f"background_of_{name}", _backgrounds(pictures), colours, 0.99)


def of_model(
    starter: Starter,
    judge: Judge,
    cut_outs: CutOuts,
    kept_out: Collection[tuple[str, str]],
    scale: Scale,
) -> Iterator[Figure]:
    """What its pictures show of what they were asked to, also of the pairs it was not trained on.

    The prompts for these are in words that it was not trained on, as the others.
    """
    prompts = asking.balanced(cut_outs.names, scale.prompts, kept_out)
    yield from _read("", (0.60, 0.95), starter, judge, prompts)
    prompts = asking.of_pairs(sorted(kept_out), seed=10_000)
    yield from _read("held_out_", (0.50, 0.90), starter, judge, prompts)
    yield _diversity(starter, judge, cut_outs, scale)


def _read(
    prefix: str,
    targets: tuple[float, float],
    starter: Starter,
    judge: Judge,
    prompts: Sequence[Prompt],
) -> Iterator[Figure]:
    pictures = starter.pictures(prompts)
    items = [prompt.item for prompt in prompts]
    colours = [prompt.colour for prompt in prompts]
    read = judging.names_read(judge, pictures)
    yield share(f"{prefix}items", read, items, targets[0])
    yield share(f"{prefix}backgrounds", _backgrounds(pictures), colours, targets[1])


def share(name: str, read: Sequence[str], meant: Sequence[str], target: float) -> Figure:
    """How much was read as it was meant, and what was often read as something else."""
    wrong = Counter((a, b) for a, b in zip(meant, read, strict=True) if a != b)
    right = len(meant) - wrong.total()
    often = "".join(f"; {a!r} as {b!r} {count}x" for (a, b), count in wrong.most_common(SHOWN))
    detail = f"{right} of {len(meant)} read right{often}"
    return Figure(name, right / len(meant), target, "of 1", detail, at_least=True)


def _backgrounds(pictures: Sequence[Image.Image]) -> list[str]:
    return [background_of(picture) for picture in pictures]


def _diversity(starter: Starter, judge: Judge, cut_outs: CutOuts, scale: Scale) -> Figure:
    """How far a prompt's pictures are apart from seed to seed, relative to compositions of it.

    The mean distance of the judge's features between any two of a prompt's pictures, against the
    same between as many compositions of its pair; summed over the prompts. Only pictures whose
    item is read right count: mistakes are no variety. 0: all seeds give the same picture; 1: as
    varied as what the model has learnt from.
    """
    prompts = asking.balanced(cut_outs.names, scale.varied, ())
    rng = np.random.default_rng(judging.UNSEEN)
    asked = [
        Prompt(prompt.text, 20_000 + number * scale.seeds + seed, prompt.item, prompt.colour)
        for number, prompt in enumerate(prompts)
        for seed in range(scale.seeds)
    ]
    pictures = starter.pictures(asked)
    read = judging.names_read(judge, pictures)
    made, real, used = 0.0, 0.0, 0
    for number, prompt in enumerate(prompts):
        places = range(number * scale.seeds, (number + 1) * scale.seeds)
        right = [pictures[place] for place in places if read[place] == prompt.item]
        if len(right) < 2:
            continue
        pairs = [(prompt.item, prompt.colour)] * scale.seeds
        drawn = cuts.composed(rng, cut_outs, pairs, starter.asked.size_px)
        made += _spread(judging.features_of(judge, right))
        real += _spread(judging.features_of(judge, [one.picture for one in drawn]))
        used += 1
    detail = (
        f"mean distance between {scale.seeds} seeds of a prompt in the judge's features, against "
        f"compositions of the same pair; {used} of {scale.varied} prompts have pictures to compare"
    )
    return Figure("diversity", made / real if used else 0.0, 0.5, "of 1", detail, at_least=True)


def _spread(features_nd: Tensor) -> float:
    """The mean distance between any two rows."""
    pairs = itertools.combinations(range(len(features_nd)), 2)
    return float(np.mean([torch.dist(features_nd[a], features_nd[b]).item() for a, b in pairs]))
