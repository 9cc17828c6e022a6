"""Pictures of a pipeline that is being trained, and what a judge makes of them."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from workers.training import compositions, judges
from workers.training.compositions import BACKGROUNDS
from workers.training.judges import Judge

STEPS = 20
EVALUATED = 64
"""Pictures of an evaluation."""
COMPARED = 206
"""Pictures for each guidance that is tried."""
AT_A_TIME = 32


@dataclass(frozen=True)
class Score:
    """The shares of pictures in which item and background were as the prompt had them."""

    items: float
    backgrounds: float

    def numbers(self) -> dict[str, float]:
        """By name."""
        return {"items_in_generated": self.items, "backgrounds_in_generated": self.backgrounds}


@dataclass(frozen=True)
class Sampler:
    """Runs ``pipeline`` with seeds that depend on a picture's number alone."""

    pipeline: Any
    size_px: int
    seed: int
    computing: Callable[[], AbstractContextManager[None]]
    look: Callable[[], None]

    def pictures(self, prompts: Sequence[str], guidance: float) -> list[Image.Image]:
        """One picture of each prompt."""
        made: list[Image.Image] = []
        for start in range(0, len(prompts), AT_A_TIME):
            self.look()
            some = list(prompts[start : start + AT_A_TIME])
            with torch.inference_mode(), self.computing():
                answer = self.pipeline(
                    some,
                    width=self.size_px,
                    height=self.size_px,
                    num_inference_steps=STEPS,
                    guidance_scale=guidance,
                    generator=[
                        torch.Generator("cpu").manual_seed(self.seed + start + n)
                        for n in range(len(some))
                    ],
                )
            made += answer.images
        return made

    def score(self, judge: Judge, names: Sequence[str], count: int, guidance: float) -> Score:
        """Of ``count`` pictures of items and backgrounds that are drawn, any pair of them."""
        rng = np.random.default_rng(self.seed)
        items = rng.permutation(max(count, len(names)))[:count] % len(names)
        colours = [str(one) for one in rng.choice(list(BACKGROUNDS), count)]
        prompts = [
            compositions.caption(rng, names[item], colour, plain=True)
            for item, colour in zip(items, colours, strict=True)
        ]
        pictures = self.pictures(prompts, guidance)
        device = next(judge.parameters()).device
        found = judge.items(judges.as_tensor(pictures).to(device)).cpu().numpy()
        right = [
            compositions.background_of(picture) == colour
            for picture, colour in zip(pictures, colours, strict=True)
        ]
        return Score(float((found == items).mean()), float(np.mean(right)))
