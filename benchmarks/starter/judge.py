"""The judge of items: it learns from rendered compositions, never from generated pictures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.starter import cut_outs as cuts
from benchmarks.starter.cut_outs import Composed, CutOuts
from benchmarks.starter.disturbances import disturbed
from benchmarks.starter.learning import Lesson, Recipe, kept
from workers.training.judges import Judge, as_tensor

RECIPE = Recipe(steps=1200, version=2)
UNSEEN = 1_000_003
"""Seeds what a judge is examined on; lessons are drawn from pairs of numbers."""
AT_ONCE = 64


def judge_of(folder: Path, cut_outs: CutOuts, size_px: int, recipe: Recipe = RECIPE) -> Judge:
    """The judge of these items in pictures of this size, from ``folder`` or trained now."""
    names = cut_outs.names

    def teach(rng: np.random.Generator) -> Lesson:
        pairs = cuts.pairs_drawn(rng, cut_outs, recipe.batch)
        made = cuts.composed(rng, cut_outs, pairs, size_px, disturbed)
        return [one.picture for one in made], [names.index(one.item) for one in made]

    learnt_from = {"pictures": cut_outs.sha256, "size_px": size_px, "judges": "items"}
    return kept(folder, names, recipe, learnt_from, teach)


def examined(cut_outs: CutOuts, count: int, size_px: int) -> list[Composed]:
    """Compositions that no judge has learnt from, nothing disturbed in them."""
    rng = np.random.default_rng(UNSEEN)
    return cuts.composed(rng, cut_outs, cuts.pairs_drawn(rng, cut_outs, count), size_px)


def names_read(judge: Judge, pictures: Sequence[Image.Image]) -> list[str]:
    """What the judge reads in each of the RGB pictures."""
    return [
        judge.names[index]
        for part in _parts(pictures)
        for index in judge.items(as_tensor(part)).tolist()
    ]


def features_of(judge: Judge, pictures: Sequence[Image.Image]) -> Tensor:
    """The judge's features (N, D) of RGB pictures."""
    with torch.inference_mode():
        return torch.cat([judge.features(as_tensor(part)) for part in _parts(pictures)])


def autoencoder_in(folder: Path) -> Any:
    """The autoencoder of a diffusers directory, or of the pipeline in it."""
    if (folder / "vae").is_dir():
        folder = folder / "vae"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = config["_class_name"]
    if name not in {"AutoencoderKL", "AutoencoderTiny"}:
        raise ValueError(f"{folder}: its {name} is neither AutoencoderKL nor AutoencoderTiny")
    kind = getattr(diffusers, name)
    return kind.from_pretrained(
        folder, use_safetensors=True, local_files_only=True, dtype=torch.float32
    )


def reconstructed(autoencoder: Any, pictures: Sequence[Image.Image]) -> list[Image.Image]:
    """RGB pictures after the autoencoder has encoded and decoded them."""
    return [picture for part in _parts(pictures) for picture in _reconstructed(autoencoder, part)]


@torch.inference_mode()  # type: ignore[untyped-decorator]
def _reconstructed(autoencoder: Any, pictures: Sequence[Image.Image]) -> list[Image.Image]:
    encoded = autoencoder.encode(as_tensor(pictures))
    kl = hasattr(encoded, "latent_dist")
    latents = encoded.latent_dist.mode() if kl else encoded.latents
    made = autoencoder.decode(latents).sample
    bytes_nhwc = ((made.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(picture) for picture in bytes_nhwc]


def _parts(pictures: Sequence[Image.Image]) -> list[Sequence[Image.Image]]:
    return [pictures[start : start + AT_ONCE] for start in range(0, len(pictures), AT_ONCE)]
