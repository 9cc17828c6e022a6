"""The benchmark runs; what it finds at a small scale means nothing."""

import json
import math
import os
import re
import subprocess
import sys
from typing import Any

from benchmarks.workers import profile
from tests.acceptance.stack import ROOT


def documented() -> set[str]:
    """The figures in the table of the page about them."""
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| `(\w+)`: ", page, flags=re.MULTILINE))


def figures_of(benchmark: str, *arguments: str) -> dict[str, Any]:
    """What a benchmark finds, each figure finite and explained."""
    clean = {name: value for name, value in os.environ.items() if "PRESSWORK" not in name}
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{benchmark}", "--json", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        # A thread each: on a busy machine two of them wait for each other.
        env={**clean, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    for figure in found.values():
        assert figure.keys() == {"value", "target", "unit", "met", "detail"}
        assert math.isfinite(figure["value"])
        assert isinstance(figure["met"], bool)
        assert figure["detail"]
    return found


def test_every_figure_is_there() -> None:
    """A run with few jobs gives every figure that the docs list, finite and explained."""
    found = figures_of("ledger", "--jobs", "1000")
    assert found.keys() == documented()
    # This one is a count, the same at any scale.
    assert found["transactions_per_batch"]["met"]


def test_workers_are_measured() -> None:
    """A few images give what a worker is compared by without installing others, and is kept to."""
    found = figures_of(
        "workers", "--images", "8", "--eager", "--devices", "cpu", "--only", "goodput,mixed,memory"
    )
    assert found.keys() == {
        "goodput_overhead",
        "goodput_arithmetic",
        "mixed_against_uniform",
        "recompiles_and_eager_calls",
        "memory_over_a_life",
    }
    assert found["recompiles_and_eager_calls"]["met"]
    assert all(figure["value"] > 0 for name, figure in found.items() if "calls" not in name)


def test_the_profile_is_drawn() -> None:
    """Samples are shared out by what a thread is at, and what waits is no work of other threads."""
    making, others = profile.gathered(
        [
            "main;Runner.drain (workers/runner.py:1);forward (diffusers/models/unets/a.py:2) 6",
            "main;Runner.drain (workers/runner.py:1);claim (storage/ledger/claim.py:3) 3",
            "main;Runner.drain (workers/runner.py:1);wait (threading.py:9) 1",
            "upload;_run (threading.py:1);put (storage/objects.py:4);send (botocore/http.py:5) 2",
            "pulse;_run (threading.py:1);wait (threading.py:9) 50",
        ]
    )
    assert making == {"denoiser": 6, "SQL": 3, "waiting": 1}
    assert others == {"storing": 2}
    drawn = profile.picture({"one": making}, making.total(), "title")
    assert drawn.startswith("<svg ")
    assert "denoiser 60.0%" in drawn
