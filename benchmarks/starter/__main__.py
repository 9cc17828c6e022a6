"""``python -m benchmarks.starter --pictures DIR [--model DIR] [--json]``: what a judge sees.

The judge learns to tell the items apart from compositions of the cut-outs in ``--pictures``,
which takes minutes, and is kept. Without ``--model`` it is only trained and examined.
"""

import argparse
import sys
from collections.abc import Iterator

from benchmarks.figures import Figure, report, timed
from benchmarks.starter import cut_outs as cuts
from benchmarks.starter import judge as judging
from benchmarks.starter import measures, options
from benchmarks.starter.generating import Starter
from benchmarks.starter.measures import Scale


def figures(given: argparse.Namespace, scale: Scale) -> Iterator[Figure]:
    """The judge's ceilings, then the model's figures, as they come."""
    cut_outs = cuts.read(given.pictures)
    judge = judging.judge_of(given.judges, cut_outs, given.size)
    yield from measures.of_judge(
        judge, cut_outs, given.autoencoder or given.model, given.size, scale
    )
    if given.model is not None:
        kept_out = options.kept_out(given, cut_outs.names)
        starter = Starter(given.model, options.asked(given))
        yield from measures.of_model(starter, judge, cut_outs, kept_out, scale)


def main() -> None:
    """Print the figures; the exit code is 1 if a target is missed."""
    parser = options.parser_of("benchmarks.starter", __doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    given = parser.parse_args()
    with timed() as elapsed_s:
        found = report(figures(given, Scale()), as_json=given.json)
    if not given.json:
        print(f"{elapsed_s() / 60:.1f} minutes")
    if not all(figure.met for figure in found):
        sys.exit(1)


if __name__ == "__main__":
    main()
