"""The release before and this one side by side, while the schema is migrated under both."""

import json
import subprocess
import sys
import tarfile
from functools import partial
from pathlib import Path
from uuid import UUID

from storage import database
from tests.faults.audit import Finding
from tests.faults.house import House
from tests.faults.trial import Trial, run

RELEASES = Path(__file__).parents[1] / "releases"
JOBS = 320
SOME = 10
OLD, NEW = "cpu-0", "cpu-2"
BEFORE = "0001"
"""The revision of the schema that the release before was written for, and that release's name."""


def old_and_new(folder: Path, seed: int) -> Finding:
    """Old workers and sweepers go on over the migration; new ones join; the old ones leave."""
    release = folder / "release"
    with tarfile.open(RELEASES / f"{BEFORE}.tar.xz") as archive:
        archive.extractall(release, filter="data")
    with House(folder / "house", release=release, revision=BEFORE) as house:
        return run(house, partial(_mixed, folder=folder, release=release), seed)


def _mixed(trial: Trial, folder: Path, release: Path) -> None:
    house = trial.house
    house.start_worker(NEW, current=True)
    house.start_sweeper("sweeper-2", current=True)
    trial.until(
        lambda: "presswork migrate" in (house.data / "logs" / f"{NEW}.log").read_text(),
        "the new worker says that it waits for the migration",
    )
    trial.watch(_submit(house, folder, release), JOBS)
    trial.until(lambda: _made(trial) >= SOME, "the old workers are at it")
    assert not _made(trial, by=NEW), "a new worker has worked on an old schema"
    database.migrate(house.engine)
    trial.fault_at = trial.now()
    by_old = _made(trial, by=OLD)
    trial.until(lambda: _made(trial, by=OLD) > by_old, "an old worker works on the new schema")
    trial.until(lambda: _made(trial, by=NEW), "a new worker works beside it")
    for name in (OLD, "cpu-1", "sweeper-0", "sweeper-1"):
        house.stop(name)
    trial.until(trial.ended, "the new worker has done the rest")


def _made(trial: Trial, by: str = "") -> int:
    """How many jobs have their artifact, made by the worker of a slot."""
    made = trial.value(
        "SELECT count(*) FROM artifacts"
        " WHERE job_id = ANY(:ids) AND starts_with(facts ->> 'worker', :by)",
        by=by,
    )
    assert isinstance(made, int)
    return made


def _submit(house: House, folder: Path, release: Path) -> UUID:
    """A campaign, by the command of the release before."""
    rows = "".join(f"{n},thing {n}\n" for n in range(JOBS))
    (folder / "recipients.csv").write_text("id,product\n" + rows, encoding="utf-8")
    campaign = folder / "campaign.yaml"
    campaign.write_text(
        "name: Old and new\n"
        "recipients: {file: recipients.csv, id: id}\n"
        "creatives:\n"
        "  - {name: hero, prompt: 'a {{ product }}', size: 64x64, steps: 30}\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "campaign", "submit", str(campaign), "--json"],
        capture_output=True,
        text=True,
        env=house.environment(),
        cwd=release,
        check=True,
    )
    return UUID(json.loads(done.stdout)["id"])
