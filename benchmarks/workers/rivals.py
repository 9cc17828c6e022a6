"""The alternatives as processes: started, given pictures, timed, and one of them killed."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any
from uuid import uuid4

import psutil
import urllib3
from celery import Celery
from sqlalchemy import text

from benchmarks.workers.alternatives.storing import INSERT, TABLE, Order, sent
from benchmarks.workers.loads import Load, Picture, uniform
from benchmarks.workers.plant import NothingComesError, Plant, until
from benchmarks.workers.scale import Scale
from jobs.processes import Child, Program

__all__ = ["INSERT", "RIVALS", "USUAL", "Kind", "Rival"]

QUIET_S = 60.0
"""Nothing more is stored for this long: then what is missing counts as lost."""
AWAY_S = 1.0

Produce = Callable[[Order, str, Sequence[Picture]], None]


@dataclass(frozen=True)
class Kind:
    """An alternative: how it is installed and run, and how it is given pictures."""

    name: str
    package: str | None
    install: str
    command: Sequence[str]
    produce: Produce

    def _how_many(self, scale: Scale) -> Sequence[str]:
        return ("--concurrency", str(len(scale.slots))) if self.command[0] == "celery" else ()

    @property
    def is_installed(self) -> bool:
        """Whether it can be measured here."""
        return self.package is None or find_spec(self.package) is not None

    @contextmanager
    def running(self, plant: Plant, load: Load, scale: Scale) -> Iterator["Rival"]:
        """Its processes, as many as the worker has, each ready for all of the load's sizes."""
        settings = plant.services.settings
        order = Order(
            load,
            plant.books.url.replace("+psycopg", ""),
            settings.broker_url,
            {
                "endpoint_url": settings.s3_endpoint or "",
                "aws_access_key_id": settings.s3_access_key_id or "",
                "aws_secret_access_key": settings.s3_secret_access_key or "",
                "region_name": "us-east-1",
            },
            settings.s3_bucket,
            _free_port(),
            len(scale.slots),
        )
        plant.books.administer(TABLE)
        log = plant.ground.folder / "logs" / f"{self.name}.log"
        child = Child(
            Program(
                name=self.name,
                command=[sys.executable, "-m", *self.command, *self._how_many(scale)],
                log=log,
                environment={
                    **plant.outside,
                    **scale.slots[0].environment,
                    **order.as_environment(),
                },
                grace_s=10,
            )
        )
        rival = Rival(self, plant, order, child)
        try:
            ready = load.batch * len(scale.slots)
            for size in load.sizes:
                # Two batches in a row for each process: one of them may be late.
                for _ in range(2):
                    rival.wait_until_ready([Picture(n, "mug", 1, size) for n in range(ready)])
            yield rival
        except NothingComesError as error:
            raise NothingComesError(f"{self.name}: {error}\n{_end_of(log)}") from error
        finally:
            below = (
                psutil.Process(child.pid).children(recursive=True) if not child.exit_code else []
            )
            child.stop()
            for process in below:  # Ray's have groups of their own
                if process.is_running():
                    process.kill()


@dataclass(frozen=True)
class Rival:
    """An alternative that runs."""

    kind: Kind
    plant: Plant
    order: Order
    child: Child

    def wait_until_ready(self, pictures: Sequence[Picture]) -> None:
        """Return once it has made them."""
        run = uuid4().hex
        if self.kind.produce is not over_http:
            self.kind.produce(self.order, run, pictures)  # it waits in the broker

        def answered() -> bool:
            if self.child.exit_code is not None:
                raise NothingComesError(f"{self.kind.name} has ended")
            if self.kind.produce is over_http:
                self.kind.produce(self.order, run, pictures)
            return self.stored(run) == len(pictures)

        until(f"{self.kind.name} to be ready", answered)

    def seconds(self, pictures: Sequence[Picture]) -> float:
        """From the first request to the last row."""
        run = uuid4().hex
        since = self.plant.now()
        self.kind.produce(self.order, run, pictures)
        until(f"{self.kind.name} to store all", lambda: self.stored(run) == len(pictures))
        with self.plant.services.engine.begin() as connection:
            last = connection.execute(
                text("SELECT extract(epoch FROM max(finished_at)) FROM made WHERE run = :run"),
                {"run": run},
            ).scalar_one()
        return float(last) - since

    def lost(self, count: int) -> int:
        """How many of so many pictures are never stored, if its process is killed on the way."""
        run = uuid4().hex
        pictures = uniform(self.order.load, count)
        # A daemon: what the killed process had taken may never be answered.
        producer = threading.Thread(
            target=self.kind.produce, args=(self.order, run, pictures), daemon=True
        )
        producer.start()
        until("a part to be stored", lambda: self.stored(run) >= max(count // 4, 1))
        os.kill(self._computing().pid, signal.SIGKILL)
        stored, since = self.stored(run), time.monotonic()
        while time.monotonic() - since < QUIET_S and stored < count:
            self.child.poll()  # as a service manager would
            time.sleep(0.1)
            if self.stored(run) > stored:
                stored, since = self.stored(run), time.monotonic()
            elif not producer.is_alive() and self.kind.produce is over_http:
                break  # every request has had its answer
        return count - self.stored(run)

    def stored(self, run: str) -> int:
        """How many pictures of a run there are."""
        with self.plant.services.engine.begin() as connection:
            query = text("SELECT count(*) FROM made WHERE run = :run")
            return int(connection.execute(query, {"run": run}).scalar_one())

    def _computing(self) -> psutil.Process:
        """The process with the model: the one that has most in memory."""
        everybody = psutil.Process(self.child.pid).children(recursive=True)
        return max(everybody, key=lambda process: process.memory_info().rss)


def over_http(order: Order, run: str, pictures: Sequence[Picture]) -> None:
    """Each picture is asked for once, whatever comes of it.

    As many at a time as the server may gather twice, so that the next batch is always there.
    """
    outstanding = 2 * order.load.batch * len(order.load.sizes) * order.processes
    pool = urllib3.PoolManager(maxsize=outstanding, retries=False)

    def ask(picture: Picture) -> None:
        try:
            pool.request(
                "POST",
                f"http://127.0.0.1:{order.port}/make",
                json=sent(run, picture),
                timeout=urllib3.Timeout(connect=5, read=600),
            )
        except urllib3.exceptions.HTTPError:
            time.sleep(AWAY_S)

    with ThreadPoolExecutor(min(outstanding, len(pictures))) as threads:
        list(threads.map(ask, pictures))


def _by_celery(queue: str, task: Callable[[Picture], str], **options: Any) -> Produce:
    def produce(order: Order, run: str, pictures: Sequence[Picture]) -> None:
        with Celery("producer", broker=order.broker_url) as app:
            app.conf.broker_transport_options = options
            for picture in pictures:
                app.send_task(
                    task(picture),
                    args=[sent(run, picture)],
                    queue=queue,
                    priority=picture.priority,
                    ignore_result=True,
                )

    return produce


def _celery(module: str) -> Sequence[str]:
    quietly = ("--without-gossip", "--without-mingle", "--without-heartbeat")
    return (
        *("celery", "-A", f"{ALTERNATIVES}.{module}", "worker", "--pool", "prefork"),
        *("--loglevel", "WARNING", *quietly),
    )


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _end_of(log: Any) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


ALTERNATIVES = "benchmarks.workers.alternatives"

USUAL = Kind(
    "per_image",
    None,
    "",
    _celery("per_image"),
    _by_celery("benchmark-per-image", lambda _: "make"),
)

RIVALS = (
    Kind(
        "celery_batches",
        "celery_batches",
        "pip install --no-deps celery-batches==0.11",
        _celery("celery_batches_app"),
        _by_celery(
            "benchmark-batches",
            lambda picture: f"make-{picture.size}",
            priority_steps=list(range(3)),
            queue_order_strategy="priority",
        ),
    ),
    Kind(
        "litserve",
        "litserve",
        "pip install litserve",
        (f"{ALTERNATIVES}.litserve_app",),
        over_http,
    ),
    Kind(
        "ray_serve",
        "ray",
        "pip install 'ray[serve]'",
        (f"{ALTERNATIVES}.ray_app",),
        over_http,
    ),
)
