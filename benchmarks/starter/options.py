"""The options that the benchmarks of the starter model share."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import yaml

from benchmarks.starter.cut_outs import COLOURS
from benchmarks.starter.generating import Asked
from workers.family import Device
from workers.training.compositions import held_out

JUDGES = Path.home() / ".cache" / "presswork" / "judges"
RECIPE = "recipe.yaml"
"""In a model's folder, what it was made with."""


def asked(given: argparse.Namespace) -> Asked:
    """How the pictures are to be made."""
    device = Device(given.device, given.dtype)
    return Asked(device, given.size, given.steps, given.guidance, given.batch)


def kept_out(given: argparse.Namespace, names: Sequence[str]) -> set[tuple[str, str]]:
    """The pairs that the model has not been trained on, which the seed of its training decides."""
    seed = given.seed
    recipe = given.model / RECIPE
    if seed is None and recipe.is_file():
        seed = yaml.safe_load(recipe.read_text(encoding="utf-8")).get("seed")
    if seed is None:
        raise SystemExit(f"{recipe} says no seed: give the training's as --seed")
    return held_out(names, COLOURS, seed=seed)


def parser_of(
    program: str, description: str | None, *, needs_model: bool = False
) -> argparse.ArgumentParser:
    """The options that all of them have."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    parser.add_argument("--pictures", type=Path, required=True, help="the imagefolder of cut-outs")
    parser.add_argument(
        "--model", type=Path, required=needs_model, help="a folder as diffusers saves it"
    )
    parser.add_argument("--autoencoder", type=Path, help="another one than the model's")
    parser.add_argument(
        "--judges", type=Path, default=JUDGES, help="where they are kept (default: %(default)s)"
    )
    parser.add_argument("--size", type=int, default=128, help="of a picture's side, in pixels")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=Asked.guidance)
    parser.add_argument(
        "--seed", type=int, help=f"of the model's training (default: as its {RECIPE} says)"
    )
    parser.add_argument("--batch", type=int, default=Asked.batch)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    return parser
