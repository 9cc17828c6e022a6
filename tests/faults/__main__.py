"""The long form: ``python -m tests.faults``, every case many times, into ``faults-report.json``.

Two lanes run beside each other, each with a house of its own: all cases with short leases, and
those in which a lease has to expire with the leases of production, mostly waiting.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.faults import report
from tests.faults.cases import ALL, NEEDS_LEASE, WITH_OWN_HOUSE
from tests.faults.house import PRODUCTION, QUICK, House
from tests.faults.report import CaseReport
from tests.faults.trial import NotHereError, look_back, run

LANES = {"quick": QUICK, "production": PRODUCTION}


def main() -> int:
    """The exit code: 1 if anything was lost, doubled, left unfinished or slow."""
    arguments = _arguments()
    if arguments.lane:
        _run_lane(arguments)
        return 0
    with tempfile.TemporaryDirectory(prefix="presswork-faults-") as folder:
        parts = {lane: Path(folder) / f"{lane}.json" for lane in LANES}
        lanes = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.faults", *sys.argv[1:]),
                    *("--lane", lane, "--out", str(part)),
                ]
            )
            for lane, part in parts.items()
        ]
        for lane in lanes:
            lane.wait()
        cases = [case for part in parts.values() if part.exists() for case in _read(part)]
    found = {(case["lane"], case["name"]) for case in cases}
    missing = [
        f"{name} ({lane})"
        for lane in LANES
        for name in _names(arguments, lane)
        if (lane, name) not in found
    ]
    whole = report.combine(cases, missing)
    arguments.out.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    print(report.table(cases))
    print("\n".join(whole["problems"]))
    print(
        f"{whole['trials']} trials, {whole['jobs']} jobs: {whole['lost']} lost, "
        f"{whole['doubled']} doubled, {whole['unfinished']} unfinished ({arguments.out})"
    )
    return int(bool(whole["problems"]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--trials", type=int, default=6, help="per case with short leases")
    parser.add_argument("--slow-trials", type=int, default=2, help="the same with long leases")
    parser.add_argument("--seed", type=int, default=1, help="of each case's first trial")
    parser.add_argument(
        "--case", action="append", choices=sorted([*ALL, *WITH_OWN_HOUSE]), help="only these"
    )
    parser.add_argument("--out", type=Path, default=Path("faults-report.json"))
    parser.add_argument("--lane", choices=sorted(LANES), help=argparse.SUPPRESS)
    return parser.parse_args()


def _names(arguments: argparse.Namespace, lane: str) -> list[str]:
    """The cases of a lane, in their order."""
    known = [*ALL, *WITH_OWN_HOUSE] if lane == "quick" else [n for n in ALL if n in NEEDS_LEASE]
    return [name for name in known if not arguments.case or name in arguments.case]


def _run_lane(arguments: argparse.Namespace) -> None:
    lane = arguments.lane
    trials = arguments.slow_trials if lane == "production" else arguments.trials
    seeds = range(arguments.seed, arguments.seed + trials)
    done: list[dict[str, Any]] = []

    def note(case: CaseReport) -> None:
        done.append({**case.as_dict(), "lane": lane})
        print(report.row(done[-1]), *case.problems, sep="\n", flush=True)
        # After each case: what has been found is kept if the next one hangs.
        arguments.out.write_text(json.dumps(done), encoding="utf-8")

    with tempfile.TemporaryDirectory(prefix="presswork-faults-") as folder:
        with House(Path(folder) / "house", LANES[lane]) as house:
            lease_s = house.lease_s
            for name in _names(arguments, lane):
                if name in ALL:
                    note(_trials(house, name, seeds))
            case = CaseReport(report.AFTERWARDS, arguments.seed, lease_s)
            case.findings.append(look_back(house))
            note(case)
        for name in _names(arguments, lane):
            if name in WITH_OWN_HOUSE:
                case = CaseReport(name, arguments.seed, lease_s)
                case.findings += [
                    WITH_OWN_HOUSE[name](Path(folder) / f"{name}-{seed}", seed) for seed in seeds
                ]
                note(case)


def _trials(house: House, name: str, seeds: Sequence[int]) -> CaseReport:
    case = CaseReport(name, min(seeds), house.lease_s)
    try:
        case.findings += [run(house, ALL[name], seed) for seed in seeds]
    except NotHereError as error:
        print(f"{name}: {error}")
    return case


def _read(part: Path) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads(part.read_text(encoding="utf-8"))
    return cases


if __name__ == "__main__":
    sys.exit(main())
