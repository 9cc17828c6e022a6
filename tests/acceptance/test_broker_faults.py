"""A worker keeps hearing wake-ups: it stands a bad broker, and is not left deaf by a silent one."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import psutil
import pytest
import redis
from sqlalchemy import Engine, make_url, text

from jobs.kinds import KINDS
from jobs.queue import WakeUps
from jobs.services import Services
from jobs.standalone import Servers
from storage import models
from storage.ledger import submit
from storage.ledger.submit import NewJob
from tests.acceptance.stack import ROOT, environment
from tests.tcp_proxy import TcpProxy
from tests.waiting import until
from workers import watchdog

LOOK_S = 0.4
DEAF_S = LOOK_S * watchdog.LOOKS

WORKER = f"""
from kombu.transport.redis import MultiChannelPoller
from workers import main, watchdog

# One sort of silence is noticed by kombu as well, in its own time.
MultiChannelPoller.maybe_check_brpop_health = lambda _: None
watchdog.LOOK_S = {LOOK_S}
"""
START = "main.main()"
LEFT_ALONE = "watchdog.cut_connections, watchdog.RESTARTS = lambda: 0, 1\n"
"""The watchdog barks, but does nothing to the connection."""


@dataclass(frozen=True)
class Worker:
    """A worker that comes to the broker through a proxy, and never looks at SQL by itself."""

    pool: str
    process: subprocess.Popen[bytes]
    proxy: TcpProxy
    log: Path

    def child(self) -> int:
        """The process that computes."""
        (child,) = psutil.Process(self.process.pid).children()
        return child.pid


@contextmanager
def started(slot: str, code: str, given: Mapping[str, str], log: Path) -> Iterator[Worker]:
    """A worker of a pool of its own, not yet up; killed afterwards."""
    url = make_url(given["PRESSWORK_BROKER_URL"])
    assert url.port
    with TcpProxy("127.0.0.1", url.port) as proxy, log.open("ab") as output:
        through = url.set(port=proxy.port).render_as_string(hide_password=False)
        own = {"PRESSWORK_BROKER_URL": through, "PRESSWORK_POOL": slot}
        process = subprocess.Popen(
            [sys.executable, "-c", code, "--slot", slot],
            stdout=output,
            stderr=output,
            env={**environment(), **given, **own, "PRESSWORK_IDLE_LOOK_S": "3600"},
            cwd=ROOT,
            start_new_session=True,
        )
        try:
            yield Worker(slot, process, proxy, log)
        finally:
            # The child ends with its parent.
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def workers(
    servers: Servers, migrated: Engine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Worker, Worker]]:
    """A worker that is watched, and one whose watchdog cannot do anything at first."""
    folder = tmp_path_factory.mktemp("deaf")
    given = {**servers.environment, "PRESSWORK_CACHE_DIR": str(folder / "cache")}
    with ExitStack() as stack:
        both = [
            stack.enter_context(started(slot, code, given, folder / f"{slot}.log"))
            for slot, code in [
                ("cpu-0", WORKER + START),
                ("cpu-1", WORKER + LEFT_ALONE + START),
            ]
        ]
        for worker in both:
            until(lambda log=worker.log: " is up on " in log.read_text(), what=str(worker.log))  # type: ignore[misc]
        yield both[0], both[1]


def submit_job(services: Services, tenant_id: UUID, pool: str, **request: object) -> UUID:
    """A job that is queued without a wake-up."""
    kind = KINDS["image"]
    with services.engine.begin() as connection:
        card = models.find(connection, "debug-diffusion")
    assert card
    resolved = kind.resolve(kind.Request.model_validate({"prompt": "x", **request}), card)
    return submit.submit_job(
        services.engine,
        NewJob(
            tenant_id=tenant_id,
            kind=kind.name,
            pool=pool,
            batch_key=kind.batch_key(resolved, card),
            request=resolved.model_dump(mode="json"),
        ),
    )


def status(engine: Engine, job_id: UUID) -> str:
    """How far a job is."""
    with engine.begin() as connection:
        query = text("SELECT status FROM jobs WHERE id = :id")
        return str(connection.execute(query, {"id": job_id}).scalar_one())


def cancel_all(engine: Engine) -> None:
    """End what is running, at the next heartbeat."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET cancel_requested = true"))


def leave_waiting(wake_ups: WakeUps, pool: str) -> None:
    """A wake-up that nobody has taken: the first one may go to a question asked before."""
    until(lambda: wake_ups.send(pool) and wake_ups.waiting(pool))


def test_a_busy_worker_is_not_deaf(
    workers: tuple[Worker, Worker], services: Services, tenant_id: UUID
) -> None:
    """While a batch is under way, wake-ups may wait as long as they like."""
    worker = workers[0]
    job_id = submit_job(services, tenant_id, worker.pool, size="512x512", steps=1000)
    services.wake_ups.send(worker.pool)
    until(lambda: status(services.engine, job_id) == "running")
    services.wake_ups.send(worker.pool)
    threading.Event().wait(DEAF_S * 1.5)
    assert services.wake_ups.waiting(worker.pool) == 1
    assert status(services.engine, job_id) == "running"
    assert "restart" not in worker.log.read_text()
    cancel_all(services.engine)
    until(lambda: status(services.engine, job_id) == "cancelled")


def test_a_full_broker(workers: tuple[Worker, Worker], services: Services, tenant_id: UUID) -> None:
    """A broker that refuses writes, and a cut on top, end neither a process nor its batch."""
    worker = workers[0]
    pids = worker.process.pid, worker.child()
    job_id = submit_job(services, tenant_id, worker.pool, size="512x512", steps=1000)
    services.wake_ups.send(worker.pool)
    until(lambda: status(services.engine, job_id) == "running")
    services.wake_ups.send(worker.pool)
    with redis.from_url(services.settings.broker_url) as valkey:
        valkey.config_set("maxmemory", 1)
        try:
            worker.proxy.cut()
            until(lambda: worker.proxy.connections, what="the consumer is back")
            assert status(services.engine, job_id) == "running"
            cancel_all(services.engine)
            until(lambda: services.wake_ups.waiting(worker.pool) == 0, what="it consumes")
        finally:
            valkey.config_set("maxmemory", 0)
    job_id = submit_job(services, tenant_id, worker.pool, steps=1)
    until(lambda: services.wake_ups.send(worker.pool))
    until(lambda: status(services.engine, job_id) == "succeeded", timeout_s=10)
    assert (worker.process.pid, worker.child()) == pids


def test_a_deaf_worker(workers: tuple[Worker, Worker], services: Services, tenant_id: UUID) -> None:
    """A watchdog brings a paused consumer back without ending a process; or ends the worker."""
    watched, left_alone = workers
    pids = [(worker.process.pid, worker.child()) for worker in workers]
    until(lambda: services.wake_ups.waiting(watched.pool) == 0)
    jobs = [submit_job(services, tenant_id, worker.pool, steps=1) for worker in workers]
    for worker in workers:
        worker.proxy.pause()
    paused_at = time.monotonic()
    for worker in workers:
        leave_waiting(services.wake_ups, worker.pool)

    until(lambda: status(services.engine, jobs[0]) == "succeeded", timeout_s=DEAF_S + 10)
    assert time.monotonic() - paused_at > DEAF_S / 2
    assert (watched.process.pid, watched.child()) == pids[0]
    assert "restart 1 of the consumer" in watched.log.read_text()

    until(lambda: "ending this worker" in left_alone.log.read_text(), timeout_s=DEAF_S * 2 + 10)
    assert time.monotonic() - paused_at > DEAF_S * 1.5
    assert status(services.engine, jobs[1]) == "queued"
    assert services.wake_ups.waiting(left_alone.pool)
    left_alone.proxy.cut()  # it ends by itself as well, after waiting for answers
    assert left_alone.process.wait(20) == 0
    assert not psutil.pid_exists(pids[1][1])
