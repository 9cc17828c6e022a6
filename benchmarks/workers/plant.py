"""A worker process of the product's own, on the benchmark's servers, and work for it."""

import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
from sqlalchemy import text

from benchmarks.ground import Books, Ground
from benchmarks.workers.loads import Load, Picture
from jobs.campaigns import file as campaign_file
from jobs.devices import parse_devices
from jobs.maintenance.fanout import fan_out_campaigns
from jobs.processes import Child, Program
from jobs.queue import WakeUps
from jobs.registry import adding
from jobs.registry.specs import ModelSpec
from jobs.services import Services
from jobs.submissions import JobSubmission, submit_campaign, submit_job

LOOK_S = 0.2
"""Seldom: what looks computes, on the cores that are measured. Times are the database's own."""
PATIENCE_S = 600.0
LICENCE = "Apache-2.0"


class NothingComesError(Exception):
    """What was waited for has not come; the message says where to look."""


def until(what: str, found: Callable[[], bool], *, patience_s: float = PATIENCE_S) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + patience_s
    while not found():
        if time.monotonic() > deadline:
            raise NothingComesError(f"waited {patience_s:.0f} s for {what}")
        time.sleep(LOOK_S)


class _Silent(WakeUps):
    """Wakes nobody, so that what is queued stays there until all of it is."""

    def __init__(self) -> None:
        """Without a broker."""

    def send(self, pool: str, count: int = 1) -> bool:  # noqa: ARG002 (as it is called)
        """Say that it has been done."""
        return True


@dataclass(frozen=True)
class Plant:
    """Servers, a database with the models in it, and the way to start workers on them."""

    ground: Ground
    books: Books
    services: Services
    environment: Mapping[str, str]
    """Of the worker's processes: its settings are in it."""
    outside: Mapping[str, str]
    """Of all other processes. What they compile is compiled once."""

    def add_model(self, load: Load, name: str | None = None, **more: Any) -> None:
        """Register the load's model as `presswork model add` would."""
        spec: dict[str, Any] = {
            "name": name or load.name,
            "source": f"dir:{load.folder}",
            "licence": LICENCE,
            "commercial": True,
            "size": load.size,
            "steps": load.steps,
            "guidance": load.guidance,
            **more,
        }
        adding.add(self.services, ModelSpec(**spec))

    def add_adapter(self, load: Load, folder: Path, name: str) -> None:
        """Register an adapter for the load's model."""
        spec = {"name": name, "source": f"dir:{folder}", "licence": LICENCE, "commercial": True}
        adding.add(self.services, ModelSpec(**spec, adapter_for=load.name))

    def submit_campaign(
        self,
        load: Load,
        pictures: Sequence[Picture],
        creatives: Sequence[Mapping[str, Any]] = ({},),
    ) -> list[UUID]:
        """The jobs of one campaign of one size; the workers have been woken.

        Recipients are new each time: no seed comes twice, or a job might be known already.
        """
        spec = {
            "name": "benchmark",
            "model": load.name,
            "recipients": {
                "id": "id",
                "rows": [{"id": str(p.number), "prompt": p.prompt} for p in pictures],
            },
            "creatives": [
                {
                    "name": f"creative{number}",
                    "prompt": "{{ prompt }}",
                    "size": pictures[0].size,
                    "steps": load.steps,
                    "guidance": load.guidance,
                    **creative,
                }
                for number, creative in enumerate(creatives)
            ],
        }
        campaign_id = submit_campaign(
            self.services, self.books.tenant_id, campaign_file.from_mapping(spec)
        )
        fan_out_campaigns(self.services.engine, self.services.wake_ups)
        query = text("SELECT id FROM jobs WHERE campaign_id = :id")
        with self.services.engine.begin() as connection:
            return list(connection.execute(query, {"id": campaign_id}).scalars())

    def submit_jobs(
        self, load: Load, pictures: Sequence[Picture], *, wake: bool, anew: bool = False
    ) -> list[UUID]:
        """A job each, in their order.

        Without ``wake`` workers hear of them at the end only. ``anew``: also where another job
        has made the same.
        """
        more = {"reuse": False} if anew else {}
        to = self.services if wake else replace(self.services, wake_ups=_Silent())
        ids = [
            submit_job(
                to,
                self.books.tenant_id,
                JobSubmission(
                    kind="image",
                    request={
                        "model": load.name,
                        "prompt": picture.prompt,
                        "size": picture.size,
                        "steps": load.steps,
                        "guidance": load.guidance,
                        "seed": picture.seed,
                        **more,
                    },
                    priority=picture.priority,
                ),
            )
            for picture in pictures
        ]
        if not wake:
            self.services.wake_ups.send(self.services.settings.pool)
        return ids

    def now(self) -> float:
        """The database's clock, in seconds."""
        return float(self._value("SELECT extract(epoch FROM clock_timestamp())"))

    def wait(self, jobs: Sequence[UUID], *, patience_s: float = PATIENCE_S) -> None:
        """Return when none of them has anything before it."""
        query = "SELECT count(*) FROM jobs WHERE id = ANY(:ids) AND finished_at IS NULL"
        until("jobs to end", lambda: self._value(query, ids=jobs) == 0, patience_s=patience_s)

    def succeeded(self, jobs: Sequence[UUID]) -> int:
        """How many of them are done."""
        query = "SELECT count(*) FROM jobs WHERE id = ANY(:ids) AND status = 'succeeded'"
        return int(self._value(query, ids=jobs))

    def span_s(self, jobs: Sequence[UUID], *, since: float | None = None) -> float:
        """From their first claim, or from ``since`` on the database's clock, to the last commit.

        All of them must have succeeded.
        """
        self.wait(jobs)
        lost = len(jobs) - self.succeeded(jobs)
        if lost:
            raise NothingComesError(f"{lost} jobs did not succeed: see {self.ground.folder}")
        first = """
            SELECT extract(epoch FROM min(at)) FROM claims_made
            WHERE id IN (SELECT claim_id FROM jobs WHERE id = ANY(:ids))
        """
        last = "SELECT extract(epoch FROM max(finished_at)) FROM jobs WHERE id = ANY(:ids)"
        start = float(self._value(first, ids=jobs)) if since is None else since
        return float(self._value(last, ids=jobs)) - start

    def counters(self) -> dict[str, float]:
        """What the workers that are up have counted; empty where they compile nothing."""
        with self.services.engine.begin() as connection:
            rows = connection.execute(text("SELECT counters FROM workers")).scalars().all()
        total: dict[str, float] = {}
        for row in rows:
            for name, count in (row or {}).items():
                if isinstance(count, int | float):
                    total[name] = total.get(name, 0) + count
        return total

    def slots(self) -> int:
        """How many processes make what is asked for."""
        return int(self._value("SELECT count(*) FROM workers WHERE pid <> 0"))

    def has_compiled_code(self) -> bool:
        """Whether each worker that is up has compiled something, or got it."""
        query = """
            SELECT coalesce(min(CAST(counters->>'compiles' AS int)
                                + CAST(counters->>'saved_results' AS int)), 0) FROM workers
        """
        return int(self._value(query)) > 0

    def beat(self) -> None:
        """Return when every worker has reported once more."""
        now = self.now()
        query = "SELECT count(*) FROM workers WHERE extract(epoch FROM seen_at) < :now"
        until("the workers to report", lambda: self._value(query, now=now) == 0)

    @contextmanager
    def worker(self, devices: str = "cpu", **settings: str) -> Iterator["Worker"]:
        """A worker process, up, while the block runs; ``settings`` are more variables."""
        folder = self.ground.folder / f"worker-{time.monotonic_ns()}"
        folder.mkdir()
        environment = {**self.environment, **settings}
        program = Program(
            name="worker",
            command=[
                *(sys.executable, "-m", "workers.main", "--devices", devices),
                *("--logs", str(folder), "--grace-s", "10"),
            ],
            log=folder / "supervisor.log",
            environment=environment,
            grace_s=15,
        )
        child = Child(program)
        worker = Worker(child, folder)
        try:
            slots = len(parse_devices(devices))
            until(f"the worker, see {folder}", lambda: self.slots() >= slots)
            yield worker
        finally:
            child.stop()
            self.books.administer("DELETE FROM workers")
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def sweeper(self) -> Iterator[None]:
        """While the block runs, what takes back the jobs of a worker that has died."""
        log = self.ground.folder / "logs" / "sweeper.log"
        command = [sys.executable, "-m", "jobs.cli", "sweeper"]
        child = Child(
            Program(name="sweeper", command=command, log=log, environment=self.environment)
        )
        try:
            yield
        finally:
            child.stop()

    def _value(self, query: str, **parameters: Any) -> Any:
        with self.services.engine.begin() as connection:
            return connection.execute(text(query), parameters).scalar_one()


@dataclass(frozen=True)
class Worker:
    """A worker that runs: its supervisor, and below that per device Celery and the child."""

    child: Child
    folder: Path

    def computing(self) -> list[psutil.Process]:
        """The processes that have the model: of each slot Celery's child."""
        slots = psutil.Process(self.child.pid).children()
        return [child for slot in slots for child in slot.children() if "--slot" in child.cmdline()]

    def kill(self) -> None:
        """End one of those as the kernel does when memory has run out: it cannot prevent it."""
        os.kill(self.computing()[0].pid, signal.SIGKILL)

    def logged(self, pattern: str) -> list[re.Match[str]]:
        """What its log says."""
        found: list[re.Match[str]] = []
        for log in sorted(self.folder.glob("*.log")):
            found += re.finditer(pattern, log.read_text(errors="replace"), flags=re.MULTILINE)
        return found
