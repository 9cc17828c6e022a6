"""``python -m benchmarks.quality``: what each level of ``quality`` costs, and what it gains.

Without ``--model`` nothing real is at hand. Then two things stand in for it. A known
distribution (`benchmarks.quality.known`), whose differences mean something. And every known
pipeline class, tiny, with random weights, which makes noise: these show that each level works on
each class, and little more.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.quality.known import of_known_distribution
from benchmarks.quality.layers import of_layers
from benchmarks.quality.models import Asked, of_model
from benchmarks.quality.rows import HEAD, Row, line
from tests.contracts import tiny_pipelines
from workers.family import Device


def rows(models: Sequence[Path], asked: Asked) -> Iterator[Row]:
    """Of the models; where there are none, of what stands in for them."""
    for files in models:
        yield from of_model(files, asked)
    if models:
        return
    yield from of_known_distribution(images=128)
    for name in tiny_pipelines.PIPELINES:
        with tempfile.TemporaryDirectory(prefix="presswork-quality-") as folder:
            yield from of_model(tiny_pipelines.save(name, Path(folder) / name), asked)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument(
        "--model", type=Path, action="append", default=[], help="as diffusers saves"
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--size", default="64x64")
    parser.add_argument("--steps", type=int, default=28, help="the usual ones")
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--images", type=int, default=4, help="in one batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", action="store_true", help="time 8-bit layers on the CPU alone")
    parser.add_argument("--json", action="store_true", help="one JSON array instead of a table")
    given = parser.parse_args()
    asked = Asked(
        Device(given.device, given.dtype),
        given.size,
        given.steps,
        given.guidance,
        given.images,
        given.rounds,
    )
    found = of_layers(given.rounds) if given.layers else rows(given.model, asked)
    if given.json:
        print(json.dumps([asdict(row) for row in found], indent=2))
        return
    print(HEAD)
    for row in found:
        print(line(row), flush=True)


if __name__ == "__main__":
    main()
