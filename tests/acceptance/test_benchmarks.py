"""The benchmark runs; what it finds at a small scale means nothing."""

import json
import math
import os
import re
import subprocess
import sys

from tests.acceptance.stack import ROOT


def documented() -> set[str]:
    """The figures in the table of the page about them."""
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| `(\w+)`: ", page, flags=re.MULTILINE))


def test_every_figure_is_there() -> None:
    """A run with few jobs gives every figure that the docs list, finite and explained."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.ledger", "--json", "--jobs", "1000"],
        capture_output=True,
        text=True,
        timeout=180,
        env={name: value for name, value in os.environ.items() if "PRESSWORK" not in name},
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() == documented()
    for figure in found.values():
        assert figure.keys() == {"value", "target", "unit", "met", "detail"}
        assert math.isfinite(figure["value"])
        assert isinstance(figure["met"], bool)
        assert figure["detail"]
    # This one is a count, the same at any scale.
    assert found["transactions_per_batch"]["met"]
