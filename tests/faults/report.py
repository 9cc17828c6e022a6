"""Findings of many trials as one report, and what it says about how sure one may be."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.faults.audit import RECOVERY_LIMIT_S, Finding

CONFIDENCE = 0.95
HEADING = (
    "| case | lease | trials | jobs | lost | doubled | wasted | recovery p50 / max |\n"
    "|---|---|---|---|---|---|---|---|"
)
AFTERWARDS = "all-of-them-afterwards"
"""Not a case: every job of the lane, looked at again at its end."""

COUNTED = ("jobs", "lost", "doubled", "unfinished", "counter_drift", "sha_mismatch", "orphans")


@dataclass
class CaseReport:
    """The trials of one case under one lease. ``seed`` is the first trial's; the next adds one."""

    name: str
    seed: int
    lease_s: float
    findings: list[Finding] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """What must not be, in words; empty where the invariant held."""
        return [
            f"{self.name}, seed {self.seed + n}: {finding.problem or finding}"
            for n, finding in enumerate(self.findings)
            if finding.broken
        ]

    def as_dict(self) -> dict[str, Any]:
        """As it stands in the report; sums over the trials, seconds for recoveries."""
        recoveries = self._recoveries()
        return {
            "name": self.name,
            "trials": len(self.findings),
            **{name: sum(getattr(each, name) for each in self.findings) for name in COUNTED},
            "wasted_generations": sum(each.wasted_generations for each in self.findings),
            "recovery_s_p50": round(statistics.median(recoveries), 2) if recoveries else None,
            "recovery_s_max": round(max(recoveries), 2) if recoveries else None,
            "lease_s": self.lease_s,
            "seed": self.seed,
            "failure_rate_below": None if self.problems else bound(len(self.findings)),
            "problems": self.problems,
        }

    def _recoveries(self) -> list[float]:
        return [each.recovery_s for each in self.findings if each.recovery_s is not None]


def bound(trials: int) -> float:
    """The failure rate that ``trials`` trials without a failure exclude, with 95 % confidence.

    The exact binomial bound, 1 - 0.05 ** (1 / n): about 3 / n, the "rule of three".
    """
    return 1.0 if trials == 0 else round(1 - float((1 - CONFIDENCE) ** (1 / trials)), 4)


def combine(cases: Sequence[dict[str, Any]], missing: Sequence[str] = ()) -> dict[str, Any]:
    """The whole report; ``missing`` are cases that were not come to."""
    first_looks = [case for case in cases if case["name"] != AFTERWARDS]
    trials = sum(case["trials"] for case in first_looks)
    problems = [problem for case in cases for problem in case["problems"]]
    problems += [f"{name} was not run" for name in missing]
    return {
        "trials": trials,
        **{name: sum(case[name] for case in first_looks) for name in COUNTED},
        "failure_rate_below": None if problems else bound(trials),
        "confidence": CONFIDENCE,
        "recovery_limit_s": RECOVERY_LIMIT_S,
        "leases_s": sorted({case["lease_s"] for case in cases}),
        "problems": problems,
        "cases": list(cases),
    }


def table(cases: Iterable[dict[str, Any]]) -> str:
    """The cases as a table, in Markdown, as docs/faults.md has it."""
    return "\n".join([HEADING, *map(row, cases)])


def row(case: dict[str, Any]) -> str:
    """One line of the table."""
    recovery = (
        ""
        if case["recovery_s_p50"] is None
        else f"{case['recovery_s_p50']:.1f} / {case['recovery_s_max']:.1f} s"
    )
    return (
        f"| {case['name']} | {case['lease_s']:.0f} s | {case['trials']} | {case['jobs']} "
        f"| {case['lost']} | {case['doubled']} | {case['wasted_generations']} | {recovery} |"
    )
