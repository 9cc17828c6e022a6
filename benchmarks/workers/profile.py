"""``python -m benchmarks.workers.profile``: what a worker does in a warm campaign.

Sampled by py-spy (`pip install py-spy`), which reads the process from the outside.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from xml.sax.saxutils import quoteattr

from benchmarks.ground import ground
from benchmarks.workers.__main__ import FULL, plant_on, seeded
from benchmarks.workers.loads import Load, uniform
from benchmarks.workers.plant import Plant
from benchmarks.workers.scale import Scale
from benchmarks.workers.warming import Numbers, warm
from jobs import machine

RATE_HZ = 100
MAKING = re.compile(r"(run_next|drain) \(workers/runner\.py")
"""In the stacks of the thread that makes: the device waits when it does anything else."""

# The first that is found anywhere in a stack. py-spy shortens paths to below site-packages.
CATEGORIES: Sequence[tuple[str, str, str]] = (
    ("SQL", "#4e79a7", r"\(storage/ledger/|\(storage/workers|\(psycopg/|\(sqlalchemy/"),
    ("prompts", "#b07aa1", r"encode_prompt|embeddings\.py"),
    ("VAE", "#59a14f", r"autoencoders?/|vae\.py|decode_latents"),
    ("scheduler", "#edc948", r"step \(diffusers/schedulers/"),
    ("denoiser", "#76b7b2", r"unets?/|transformers?/transformer_|workers/compiled\.py|inductor"),
    ("encoding", "#f28e2b", r"\(PIL/|png\.py|pictures\.py"),
    ("hashing", "#9c755f", r"sha256"),
    ("storing", "#e15759", r"\(botocore/|\(boto3/|\(urllib3/|storage/objects\.py"),
)
WAITING = re.compile(
    r"\b(wait|_wait_for|acquire|get|select|poll|notifies|result|_recv) \([^;]*$"
    r"|_worker \(concurrent/futures/thread\.py:\d+\)$"
)
"""As the innermost frame."""
IDLE, OTHER = "waiting", "other"
COLOURS = {name: colour for name, colour, _ in CATEGORIES} | {IDLE: "#dddddd", OTHER: "#8c8c8c"}


def category(stack: str) -> str:
    """What a sample is about."""
    for name, _, pattern in CATEGORIES:
        if re.search(pattern, stack):
            return name
    return IDLE if WAITING.search(stack) else OTHER


def gathered(lines: Sequence[str]) -> tuple[Counter[str], Counter[str]]:
    """Samples by category: of the thread that makes, and of all others while they do anything.

    ``lines`` are py-spy's raw format: frames from the outermost on, and how often.
    """
    making, others = Counter[str](), Counter[str]()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        if MAKING.search(stack):
            making[category(stack)] += int(count)
        elif not WAITING.search(stack):
            others[category(stack)] += int(count)
    return making, others


def picture(bars: Mapping[str, Counter[str]], total: int, title: str) -> str:
    """The bars, one under the other, as SVG; a whole bar is ``total`` samples."""
    width, height, left = 760, 34, 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{60 + 110 * len(bars)}"',
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{left}" y="20" font-weight="bold">{escape(title)}</text>',
    ]
    for row, (name, counts) in enumerate(bars.items()):
        x, y = float(left), 50 + row * 110
        parts.append(f'<text x="{left}" y="{y - 6}">{escape(name)}</text>')
        for number, (what, count) in enumerate(counts.most_common()):
            share = count / total
            w = share * (width - 2 * left)
            colour = quoteattr(COLOURS[what])
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{w:.1f}" height="{height}" fill={colour}/>'
            )
            x += w
            key_x, key_y = left + number % 5 * 148, y + height + 18 + number // 5 * 18
            parts += [
                f'<rect x="{key_x}" y="{key_y - 10}" width="11" height="11" fill={colour}/>',
                f'<text x="{key_x + 16}" y="{key_y}">{what} {share:.1%}</text>',
            ]
    return "\n".join([*parts, "</svg>", ""])


def sampled(plant: Plant, load: Load, scale: Scale, file: Path) -> list[str]:
    """A warm campaign's samples."""
    numbers = Numbers()
    load = replace(load, sizes=load.sizes[:1])
    with plant.worker(scale.devices) as worker:
        warm(plant, [load], numbers)
        target = max(worker.computing(), key=lambda process: process.memory_info().rss)
        command = [
            *(_spy(), "record", "--pid", str(target.pid), "--format", "raw", "--idle"),
            *("--threads", "--rate", str(RATE_HZ), "--output", str(file), "--nonblocking"),
        ]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as spy:
            pictures = uniform(load, scale.images, numbers.take(scale.images))
            span_s = plant.span_s(plant.submit_campaign(load, pictures))
            spy.send_signal(signal.SIGINT)
    print(f"{load.name}: {scale.images / span_s:.1f} images/s while sampled")
    return file.read_text().splitlines()


def _spy() -> str:
    beside = str(Path(sys.executable).parent)
    return shutil.which("py-spy", path=f"{beside}:{os.environ['PATH']}") or sys.exit(
        "it needs py-spy: pip install py-spy"
    )


def main() -> None:
    """Sample, print the shares, and write the picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers.profile")
    parser.add_argument("--images", type=int, default=FULL)
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--svg", type=Path, default=Path("docs/pictures/worker-profile.svg"))
    arguments = parser.parse_args()
    devices = f"cpu:{len(machine.cores())}"
    scale = Scale(arguments.images, devices, compiled=not arguments.eager)
    with (
        tempfile.TemporaryDirectory(prefix="presswork-bench-") as folder,
        ground(Path(folder) / "servers") as on,
    ):
        measured = list(seeded(Path(folder), scale))
        bars, total = {}, 1
        with plant_on(on, measured, scale) as plant:
            for load in measured:
                lines = sampled(plant, load, scale, Path(folder) / f"{load.name}.raw")
                making, others = gathered(lines)
                whole = max(making.total(), 1)
                for name, counts in (("the thread that makes", making), ("all others", others)):
                    # All in hundredths of a per cent of the time of the thread that makes.
                    shares = Counter({k: round(n * 10000 / whole) for k, n in counts.items()})
                    bars[f"{load.name}, {load.size}: {name}"] = shares
                    listed = ", ".join(f"{k} {n / 100:.1f} %" for k, n in shares.most_common())
                    print(f"{load.name}, {name}: {listed}")
                total = 10000
    arguments.svg.parent.mkdir(parents=True, exist_ok=True)
    title = "What a worker's threads do in a warm campaign, of the time of the one that makes"
    arguments.svg.write_text(picture(bars, total, title), encoding="utf-8")
    print(arguments.svg)


if __name__ == "__main__":
    main()
