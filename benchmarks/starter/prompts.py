"""What the model is asked for: prompts in words that its training did not use, and their seeds."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.starter.cut_outs import COLOURS
from workers.training.compositions import phrased

TEMPLATES = (
    "{an_item} with {a_colour} backdrop",
    "{a_colour} backdrop and {an_item}",
    "on {a_colour} background, {an_item}",
    "a photo of {an_item} on {colour}",
    "{item} in front of {a_colour} background",
    "{item} with {a_colour} wall",
    "an image of {an_item}, plain {colour} background",
    "{an_item} against {colour}",
    "background {colour}, {item}",
    "a product picture: {an_item} on {a_colour} background",
)
"""None of them is among `workers.training.compositions.TEMPLATES`."""

COUNT = 500
SEED = 500


@dataclass(frozen=True)
class Prompt:
    """A prompt, the noise to start from, and what is to be seen."""

    text: str
    seed: int
    item: str
    colour: str


def balanced(
    names: Sequence[str], count: int, without: Collection[tuple[str, str]]
) -> list[Prompt]:
    """So many prompts for pairs that are not in ``without``.

    Each item, colour and template comes about equally often, and no pair twice if it can be.
    """
    rng = np.random.default_rng(SEED)
    times = dict.fromkeys(COLOURS, 0)
    asked: dict[tuple[str, str], int] = {}
    items: list[str] = []
    while len(items) < count:
        items += [names[index] for index in rng.permutation(len(names))]
    pairs = []
    for item in items[:count]:
        free = [colour for colour in COLOURS if (item, colour) not in without]
        rank = dict(zip(COLOURS, rng.permutation(len(COLOURS)).tolist(), strict=True))
        pair = min(
            ((item, colour) for colour in free or COLOURS),
            key=lambda pair: (asked.get(pair, 0), times[pair[1]], rank[pair[1]]),
        )
        asked[pair] = asked.get(pair, 0) + 1
        times[pair[1]] += 1
        pairs.append(pair)
    return of_pairs(pairs, SEED)


def of_pairs(
    pairs: Sequence[tuple[str, str]], seed: int, templates: Sequence[str] = TEMPLATES
) -> list[Prompt]:
    """A prompt of each pair, the templates in turn; their seeds count up from ``seed``."""
    return [
        Prompt(phrased(templates[index % len(templates)], item, colour), seed + index, item, colour)
        for index, (item, colour) in enumerate(pairs)
    ]
