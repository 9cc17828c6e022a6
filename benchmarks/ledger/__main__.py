"""``python -m benchmarks.ledger [--json] [--jobs N]``: every figure, in one run."""

import argparse
import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure, report, timed
from benchmarks.ground import Ground, ground, recipients
from benchmarks.ledger import cancelling, claiming, creation, reading, throughput, waking
from benchmarks.ledger.scale import Scale

MILLION = 1_000_000


def figures(on: Ground, scale: Scale) -> Iterator[Figure]:
    """All figures, as they come."""
    yield from creation.measure(on, scale)
    with on.books() as million, on.books() as few:
        yield creation.measure_memory(on, million, scale)
        few.submit(recipients(scale.few), "0" * 32)
        for books in (million, few):
            books.administer("VACUUM ANALYZE")
        yield from reading.measure(million, few, scale)
        yield from cancelling.measure(million, scale)
    yield from claiming.measure(on, scale)
    yield from throughput.measure(on, scale)
    yield from waking.measure(on, scale)


def main() -> None:
    """Print the figures; the exit code is 1 if a target is missed at full scale."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ledger", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument(
        "--jobs",
        type=int,
        default=MILLION,
        help="fewer than a million only show that the benchmark works (default: %(default)s)",
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    with (
        timed() as elapsed_s,
        tempfile.TemporaryDirectory(prefix="presswork-bench-") as folder,
        ground(Path(folder)) as on,
    ):
        found = report(figures(on, Scale(arguments.jobs)), as_json=arguments.json)
    if not arguments.json:
        print(f"{elapsed_s() / 60:.1f} minutes")
    if Scale(arguments.jobs).full and not all(figure.met for figure in found):
        sys.exit(1)


if __name__ == "__main__":
    main()
