"""``python -m benchmarks.workers [--json] [--only NAME,...]``: every figure, in one run."""

import argparse
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.figures import Figure, report, timed
from benchmarks.ground import Ground, ground
from benchmarks.workers import adapting, goodput, lifetime, loads, mixing, sameness, starts
from benchmarks.workers.loads import Load
from benchmarks.workers.plant import NothingComesError, Plant
from benchmarks.workers.rivals import RIVALS
from benchmarks.workers.scale import Scale
from jobs import machine

FULL = 256
SIZES = {"overhead": ("64x64", "96x64", "64x96", "96x96"), "arithmetic": ("128x128",)}
STEPS = {"overhead": 50, "arithmetic": 8}

Part = Callable[[], Iterator[Figure]]


def parts(plant: Plant, measured: Sequence[Load], scale: Scale) -> Mapping[str, Part]:
    """All figures by the name that ``--only`` takes, in the order in which they are measured."""
    mixable = measured[0]
    lost: dict[str, int] = {}
    return {
        "goodput": lambda: goodput.measure(plant, measured, scale),
        "per_image": lambda: goodput.measure_per_image(plant, measured, scale),
        "mixed": lambda: mixing.measure(plant, mixable, scale),
        **{
            kind.name: partial(mixing.against, plant, mixable, scale, kind, lost)
            for kind in RIVALS
            if kind.is_installed
        },
        "starts": lambda: starts.measure(plant, mixable, scale),
        "adapters": lambda: adapting.measure(plant, mixable, scale),
        "sameness": lambda: sameness.measure(plant, mixable, scale),
        "memory": lambda: lifetime.measure(plant, scale),
        "lost": lambda: mixing.measure_lost(plant, mixable, scale, lost),
    }


@contextmanager
def plant_on(on: Ground, measured: Sequence[Load], scale: Scale) -> Iterator[Plant]:
    """A database of its own with the models in it, and what all processes of the run are told."""
    shell = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    settings = {
        "PRESSWORK_DTYPE": measured[0].dtype,
        "PRESSWORK_COMPILE": "on" if scale.compiled else "off",
        "PRESSWORK_SIGNING_KEY": "benchmark-" * 4,
        "PRESSWORK_BATCH_SIZE": str(measured[0].batch),
        # Nobody looks while something is measured: the wake-up tells.
        "PRESSWORK_IDLE_LOOK_S": "30",
        # A worker reports three times in a lease.
        "PRESSWORK_LEASE_S": "6",
    }
    outside = {**shell, "TORCHINDUCTOR_CACHE_DIR": str(on.folder / "inductor")}
    with on.books(settings) as books, books.services() as services:
        books.log_claims()
        services.objects.ensure_bucket()
        plant = Plant(on, books, services, {**shell, **books.environment}, outside)
        for load in measured:
            plant.add_model(load)
        yield plant


def seeded(folder: Path, scale: Scale) -> Iterator[Load]:
    """Both models, written to ``folder``."""
    for kind in ("overhead", "arithmetic"):
        loads.build(kind, folder / kind)
        load = Load(kind, str(folder / kind), SIZES[kind], STEPS[kind], 5.0, scale.batch)
        small = replace(load, sizes=SIZES["overhead"][:2], steps=2, compiled=scale.compiled)
        yield load if scale.full else small


def main() -> None:
    """Print the figures; the exit code is 1 if one is missed or missing at full scale."""
    arguments = _arguments()
    logging.basicConfig(level=logging.ERROR)
    on_gpu = arguments.model and arguments.device == "cuda"
    devices = arguments.devices or ("0" if on_gpu else f"cpu:{len(machine.cores())}")
    scale = Scale(arguments.images, devices, compiled=not arguments.eager)
    with (
        timed() as elapsed_s,
        tempfile.TemporaryDirectory(prefix="presswork-bench-") as folder,
        ground(Path(folder) / "servers") as on,
    ):
        measured = list(given(arguments) if arguments.model else seeded(Path(folder), scale))
        with plant_on(on, measured, scale) as plant:
            all_parts = parts(plant, measured, scale)
            chosen = arguments.only.split(",") if arguments.only else list(all_parts)
            missing = {
                kind.name: kind.install
                for kind in RIVALS
                if not kind.is_installed and (not arguments.only or kind.name in chosen)
            }
            unknown = set(chosen) - all_parts.keys() - missing.keys()
            if unknown:
                raise SystemExit(f"no {', '.join(unknown)}: there are {', '.join(all_parts)}")
            found = report(
                _measured([n for n in chosen if n in all_parts], all_parts, missing),
                as_json=arguments.json,
            )
    for name, why in missing.items():
        print(f"not measured: {name}: {why}", file=sys.stderr)
    if not arguments.json:
        print(f"{elapsed_s() / 60:.1f} minutes")
    if scale.full and (missing or not all(figure.met for figure in found)):
        sys.exit(1)


def _measured(
    chosen: Sequence[str], all_parts: Mapping[str, Part], missing: dict[str, str]
) -> Iterator[Figure]:
    """The figures of the parts; one that fails is noted as ``missing``, and the others go on."""
    for name in chosen:
        try:
            yield from all_parts[name]()
        except NothingComesError as error:
            missing[name] = str(error)


def given(arguments: argparse.Namespace) -> Iterator[Load]:
    """A model of one's own, in a folder."""
    yield Load(
        "model",
        str(Path(arguments.model).resolve()),
        tuple(arguments.size.split(",")),
        arguments.steps,
        arguments.guidance,
        arguments.batch,
        device=arguments.device,
        compiled=not arguments.eager,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument(
        "--images",
        type=int,
        default=FULL,
        help="fewer than 256 only show that the benchmark works (default: %(default)s)",
    )
    parser.add_argument("--only", metavar="NAME,...", help="a part of the figures")
    parser.add_argument(
        "--eager", action="store_true", help="compile nothing; to see that it works"
    )
    parser.add_argument(
        "--devices",
        help="of the worker, such as cpu (one process with all cores), or 0 "
        "(default: a process per core, or the first GPU)",
    )
    own = parser.add_argument_group(
        "a model of your own", "The same figures with it. Nobody has run them on a GPU yet."
    )
    own.add_argument("--model", metavar="DIR", help="a diffusers directory")
    own.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    own.add_argument("--size", default="1024x1024", help="or several, for mixed traffic: A,B,...")
    own.add_argument("--steps", type=int, default=30)
    own.add_argument("--guidance", type=float, default=5.0)
    own.add_argument("--batch", type=int, default=4)
    return parser.parse_args()


if __name__ == "__main__":
    main()
