"""What is made: the models, with seeded weights or one of your own, and how they are called."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

SEED = 20_260_102
TOKENS = 514
"""Of the byte-level tokenizer."""


@dataclass(frozen=True)
class Load:
    """A model in ``folder``, and the calls that it is measured with.

    ``sizes`` are those of mixed traffic; the first is that of uniform traffic. Compiled, each size
    is a program of its own, in calls of ``batch`` pictures: what is less is padded.
    """

    name: str
    folder: str
    sizes: tuple[str, ...]
    steps: int
    guidance: float
    batch: int
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    compiled: bool = True

    @property
    def size(self) -> str:
        """Of uniform traffic, in pixels."""
        return self.sizes[0]

    def as_json(self) -> str:
        """For another process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The same on the other side."""
        values: dict[str, Any] = json.loads(text)
        return cls(**{**values, "sizes": tuple(values["sizes"])})


@dataclass(frozen=True)
class Picture:
    """One picture that is asked for; ``number`` is its name, ``priority`` 0 the most urgent."""

    number: int
    prompt: str
    seed: int
    size: str
    priority: int = 0


def build(kind: Literal["overhead", "arithmetic"], folder: Path) -> None:
    """Write a Stable Diffusion with seeded weights to ``folder``, 1 or 9 million in its UNet."""
    # Torch, for those who build: the benchmark itself has no use for it.
    import torch  # noqa: PLC0415
    from diffusers import (  # noqa: PLC0415
        AutoencoderKL,
        DPMSolverMultistepScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel  # noqa: PLC0415

    from workers.families.diffusion.debug import tokenizer  # noqa: PLC0415

    is_small = kind == "overhead"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=TOKENS,
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=77,
                bos_token_id=TOKENS - 2,
                eos_token_id=TOKENS - 1,
                pad_token_id=TOKENS - 1,
            )
        )
        unet = UNet2DConditionModel(
            sample_size=8 if is_small else 16,
            layers_per_block=1,
            block_out_channels=(32, 64) if is_small else (96, 192, 256),
            norm_num_groups=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D")
            if is_small
            else ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D")
            if is_small
            else ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=64,
            attention_head_dim=4,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8, 8, 16, 16),
            norm_num_groups=4,
            latent_channels=4,
            sample_size=64 if is_small else 128,
        )
    pipeline = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer(),
        unet=unet.eval(),
        scheduler=DPMSolverMultistepScheduler(steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)


SHARES = (37, 21, 13, 29, 5, 17, 41, 11, 3, 23, 31, 25)
"""Of 256 pictures by size and priority: no count is a multiple of a batch, some fill none."""


def uniform(load: Load, count: int, first: int = 0) -> list[Picture]:
    """``count`` pictures of one size. No two have a prompt or a seed in common."""
    return [
        Picture(number, f"mug number {number} on a table", 1000 + number, load.size)
        for number in range(first, first + count)
    ]


def mixed(load: Load, count: int, first: int = 0) -> list[Picture]:
    """About ``count`` pictures in all sizes, with three priorities, in no order."""
    import random  # noqa: PLC0415

    pictures: list[Picture] = []
    groups = [(size, priority) for size in load.sizes for priority in range(3)]
    for (size, priority), share in zip(groups, SHARES, strict=False):
        for _ in range(max(round(share * count / sum(SHARES)), 1)):
            number = first + len(pictures)
            prompt = f"mug number {number} on a table"
            pictures.append(Picture(number, prompt, 1000 + number, size, priority))
    random.Random(SEED).shuffle(pictures)
    return pictures


def by_size(pictures: Sequence[Picture]) -> dict[str, list[Picture]]:
    """The pictures that can share a call."""
    found: dict[str, list[Picture]] = {}
    for picture in pictures:
        found.setdefault(picture.size, []).append(picture)
    return found
