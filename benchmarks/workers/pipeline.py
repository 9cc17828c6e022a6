"""The bare pipeline: the same weights and calls as the worker's, with nothing around it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.workers.loads import Load, Picture, by_size
from jobs.kinds.sizes import parse_size
from workers import pipelines


class Pipeline:
    """A pipeline of diffusers, and if the load says so its UNet and VAE compiled, in fixed shapes.

    Each size is compiled for calls of ``load.batch`` pictures: what is less is padded.
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        self._pipeline: Any = pipelines.load(Path(load.folder), getattr(torch, load.dtype))
        self._pipeline.to(load.device)
        if load.compiled:
            # Each shape a program, as the worker has it; the ninth would run eager in silence.
            torch.compiler.config.recompile_limit = 64
            for part, method in _compiled_parts(self._pipeline):
                compiled = torch.compile(getattr(part, method), dynamic=False)
                setattr(part, method, compiled)

    def warm(self, sizes: Sequence[str]) -> None:
        """Have every size compiled."""
        for size in sizes:
            for _ in range(2):
                self.make([Picture(0, "mug", 1, size)])

    def make(self, pictures: Sequence[Picture]) -> list[NDArray[np.uint8]]:
        """Height x width x 3 on the host, in their order. They are of one size, a batch at most."""
        width, height = parse_size(pictures[0].size)
        size = self._load.batch if self._load.compiled else len(pictures)
        padded = [*pictures, *[pictures[-1]] * (size - len(pictures))]
        with torch.inference_mode():
            made = self._pipeline(
                prompt=[picture.prompt for picture in padded],
                generator=[torch.Generator("cpu").manual_seed(p.seed) for p in padded],
                width=width,
                height=height,
                num_inference_steps=self._load.steps,
                guidance_scale=self._load.guidance,
                output_type="pt",
            ).images
            arrays = (made * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
            return list(arrays[: len(pictures)].contiguous().cpu().numpy())

    def make_all(
        self, pictures: Sequence[Picture]
    ) -> list[tuple[list[Picture], list[NDArray[np.uint8]]]]:
        """Any number in any sizes, call by call."""
        calls = []
        for same in by_size(pictures).values():
            for start in range(0, len(same), self._load.batch):
                call = same[start : start + self._load.batch]
                calls.append((call, self.make(call)))
        return calls


def _compiled_parts(pipeline: Any) -> list[tuple[Any, str]]:
    denoiser = getattr(pipeline, "transformer", None) or pipeline.unet
    return [(denoiser, "forward"), (pipeline.vae.decoder, "forward")]
