"""The real command, its processes, and what they leave in SQL and in the bucket."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
from sqlalchemy import Engine, text

from jobs import stackfile
from jobs.settings import from_environment
from jobs.stackfile import StackInfo
from storage import counters
from storage.objects import ObjectStore, sha256_hex
from tests.waiting import until

ROOT = Path(__file__).parents[2]
STOP_LIMIT_S = 5.0

FAST_RECOVERY = {
    "PRESSWORK_LEASE_S": "3",
    "PRESSWORK_SWEEP_S": "0.2",
    "PRESSWORK_IDLE_LOOK_S": "1",
    # With a thread per core a busy machine makes them wait for each other: 80 times slower here.
    "OMP_NUM_THREADS": "1",
}


def environment() -> dict[str, str]:
    """The shell's, without settings that could lead elsewhere."""
    clean = {name: value for name, value in os.environ.items() if "PRESSWORK" not in name}
    return {**clean, **FAST_RECOVERY}


def command(*arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """The command as a process, run to its end."""
    return subprocess.run(
        [sys.executable, "-m", "jobs.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environment(),
        cwd=ROOT,
        check=False,
    )


def presswork(*arguments: str, data: Path) -> Any:
    """What a command answers in JSON; AssertionError with its words if it fails."""
    done = command(*arguments, "--data", str(data), "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Running:
    """`presswork up` on a data directory."""

    def __init__(self, process: subprocess.Popen[bytes], data: Path, info: StackInfo) -> None:
        self.process = process
        self.data = data
        self.info = info
        self.settings = from_environment(info.environment)

    def processes(self) -> list[psutil.Process]:
        """Every process below `presswork up`."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def workers(self) -> list[psutil.Process]:
        """The Celery worker and its child, for each device."""
        return [
            process
            for process in self.processes()
            if "workers.main" in (line := process.cmdline()) and "--slot" in line
        ]

    def stop(self) -> None:
        """Ctrl-C, as far as a process without a terminal can get one."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(STOP_LIMIT_S)


@contextmanager
def up(data: Path, log: Path) -> Iterator[Running]:
    """A stack that is ready; stopped afterwards if it still runs."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", "up", "--data", str(data), "--devices", "cpu"],
            stdout=output,
            stderr=output,
            env=environment(),
            cwd=ROOT,
        )
    try:
        info = until(
            lambda: stackfile.read(data) if process.poll() is None else None,
            timeout_s=120,
            what=f"presswork up; see {log}",
        )
        yield Running(process, data, info)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(30)


def write_campaign(folder: Path, recipients: int, *, steps: int) -> Path:
    """A campaign of one creative."""
    rows = "".join(f"{n},thing {n}\n" for n in range(recipients))
    (folder / "recipients.csv").write_text("id,product\n" + rows, encoding="utf-8")
    path = folder / "campaign.yaml"
    path.write_text(
        "name: Acceptance\n"
        "recipients: {file: recipients.csv, id: id}\n"
        "creatives:\n"
        "  - {name: hero, prompt: 'a {{ product }}', size: 64x64, steps: " + str(steps) + "}\n",
        encoding="utf-8",
    )
    return path


def counts(engine: Engine, campaign_id: UUID) -> dict[str, int]:
    """Jobs by status, by the counters."""
    with engine.begin() as connection:
        return {s.value: n for s, n in counters.read(connection, campaign_id).items() if n}


def running_jobs(engine: Engine) -> int:
    """Jobs that a worker is at."""
    with engine.begin() as connection:
        query = text("SELECT count(*) FROM jobs WHERE status = 'running'")
        return int(connection.execute(query).scalar_one())


def check_nothing_lost_or_doubled(
    engine: Engine, objects: ObjectStore, campaign_id: UUID, jobs: int
) -> None:
    """Every job succeeded with exactly one artifact, whose object has the recorded bytes."""
    with engine.begin() as connection:
        assert counters.read(connection, campaign_id) == counters.recount(connection, campaign_id)
        rows = connection.execute(
            text(
                """
                SELECT jobs.id, jobs.status, jobs.claim_id,
                       artifacts.claim_id AS made_by, object_key, sha256
                FROM jobs LEFT JOIN artifacts ON artifacts.job_id = jobs.id
                WHERE jobs.campaign_id = :id
                """
            ),
            {"id": campaign_id},
        ).all()
    assert len(rows) == jobs
    assert len({row.id for row in rows}) == jobs
    for row in rows:
        assert row.status == "succeeded"
        assert row.made_by == row.claim_id
        assert sha256_hex(objects.get(row.object_key)) == row.sha256
