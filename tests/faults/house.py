"""A whole Presswork on servers of its own: two workers, two sweepers, an API, and proxies between.

Every worker reaches PostgreSQL, Valkey and S3 through proxies of its own, so that a fault can be
given to one worker alone. A process that ends is started again at once.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

import psutil
import redis
from sqlalchemy import Engine

from jobs.processes import Child, Program
from jobs.queue import WakeUps
from jobs.services import Services
from jobs.settings import from_environment
from jobs.standalone import Servers, ports
from storage import database, tenants, workers
from storage.lifecycle import JobStatus
from tests.faults import audit, orders
from tests.faults.launch import HASTE
from tests.faults.orders import Orders
from tests.s3_proxy import S3Proxy
from tests.tcp_proxy import TcpProxy
from tests.waiting import until

ROOT = Path(__file__).parents[2]
READY_S = 120

EARLIER = {
    "worker": ["workers.main"],
    "sweeper": ["jobs.cli", "sweeper"],
    "api": ["jobs.web"],
}
"""How an earlier release's programs are started."""

T = TypeVar("T")

PRODUCTION = {"PRESSWORK_LEASE_S": "30", "PRESSWORK_SWEEP_S": "2", "PRESSWORK_IDLE_LOOK_S": "5"}
"""The defaults of `jobs.settings.Settings`, spelt out."""

QUICK = {
    "PRESSWORK_LEASE_S": "3",
    "PRESSWORK_SWEEP_S": "0.2",
    "PRESSWORK_IDLE_LOOK_S": "1",
    HASTE: "on",
}
"""What a trial waits for, about ten times faster."""


@dataclass(frozen=True)
class Proxies:
    """What lies between one worker and the servers."""

    postgres: TcpProxy
    valkey: TcpProxy
    s3: S3Proxy


class House:
    """A context manager for the main thread; whoever waits does it with `until`.

    ``release`` is a folder with the sources of an earlier release, which the house then runs, on
    the schema of that ``revision``, without points at which orders could be carried out.
    """

    def __init__(
        self,
        data: Path,
        times: Mapping[str, str] = QUICK,
        *,
        release: Path | None = None,
        revision: str | None = None,
    ) -> None:
        self.data = data
        self._release = release
        self._revision = revision
        self.orders = Orders(data / "orders")
        self.servers = Servers(data / "servers")
        self.proxies: dict[str, Proxies] = {}
        self.seen: dict[UUID, frozenset[JobStatus]] = {}
        """Every job of a trial so far, and how it may end."""
        self.seen_campaigns: list[UUID] = []
        self._times = dict(times)
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.servers)
            self.settings = from_environment(self.environment())
            self.settings.objects().ensure_bucket()
            self.engine: Engine = self.settings.engine("presswork faults", pool_size=4)
            stack.callback(self.engine.dispose)
            database.migrate(self.engine, self._revision or "head")
            audit.install(self.engine)
            with self.engine.begin() as connection:
                self.tenant_id = tenants.ensure(connection, "faults")
                # The release before knows no such keys as this code makes; it needs none here.
                if not self._revision:
                    self.api_key = tenants.new_key(connection, self.tenant_id, "faults")
            wake_ups = WakeUps(self.settings.broker_url)
            stack.callback(wake_ups.close)
            self.services = Services(self.settings, self.engine, self.settings.objects(), wake_ups)
            self._proxies = stack.enter_context(ExitStack())
            # The processes end before the proxies that they talk through.
            stack.callback(self.servers.supervisor.stop)
            self._start_ours()
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.orders.clear()
        self._exit.close()

    @property
    def lease_s(self) -> float:
        """How long a worker may be silent."""
        return self.settings.lease_s

    def until(self, condition: Callable[[], T | None], what: str, timeout_s: float = READY_S) -> T:
        """The first true value of ``condition``, while the house is kept running."""

        def look() -> T | None:
            self.keep_running()
            return condition()

        return until(look, timeout_s=timeout_s, what=f"{what}; logs in {self.data}")

    def keep_running(self) -> None:
        """Start again what has ended, without the pause that a supervisor makes."""
        supervisor = self.servers.supervisor
        for child in list(supervisor.children):
            if child.exit_code is not None:
                supervisor.drop(child)
                supervisor.start(child.program)

    def child(self, name: str) -> Child:
        """The process of that name: ``postgres``, ``valkey``, ``s3``, ``api``, ``cpu-0``, ..."""
        return next(
            child for child in self.servers.supervisor.children if child.program.name == name
        )

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> float:
        """End a process with a signal; when (Unix time)."""
        child = self.child(name)
        at = time.time()
        os.kill(child.pid, how)
        child.wait(READY_S)
        return at

    def start_worker(
        self, slot: str, extra: Mapping[str, str] | None = None, *, current: bool = False
    ) -> None:
        """A worker behind proxies of its own; ``current``: of this release in any case."""
        self.proxies[slot] = proxies = self._new_proxies()
        between = {
            "PRESSWORK_DATABASE_URL": _through(self.settings.database_url, proxies.postgres.port),
            "PRESSWORK_BROKER_URL": _through(self.settings.broker_url, proxies.valkey.port),
            "PRESSWORK_S3_ENDPOINT": proxies.s3.endpoint,
        }
        self._start(slot, ["worker", "--slot", slot], {**between, **(extra or {})}, current=current)

    def start_sweeper(self, name: str, *, current: bool = False) -> None:
        """One more sweeper."""
        self._start(name, ["sweeper"], {}, current=current)

    def stop(self, name: str) -> None:
        """Ask a process to end, and do not start it again."""
        self.servers.supervisor.drop(self.child(name))

    def child_pid(self, slot: str) -> int | None:
        """The process of a slot that computes; None while there is none."""
        children = psutil.Process(self.child(slot).pid).children()
        return children[0].pid if children else None

    def wait_for_workers(self, *slots: str) -> None:
        """Until each of them counts as up."""

        def are_up() -> bool:
            live = workers.live(self.engine, within_s=5)
            return all(any(name.startswith(f"{slot}@") for name in live) for slot in slots)

        self.until(are_up, f"workers {', '.join(slots)} are up")

    def broker(self) -> "redis.Redis":
        """A client of the broker itself."""
        return redis.Redis.from_url(self.settings.broker_url)

    def environment(self) -> dict[str, str]:
        """What leads a process of ours to the house's servers."""
        return {
            **self.servers.environment,
            **self._times,
            "PRESSWORK_CACHE_DIR": str(self.data / "cache"),
            "PRESSWORK_TENANT": "faults",
            orders.VARIABLE: str(self.orders.folder),
            # With a thread per core two workers would wait for each other's threads.
            "OMP_NUM_THREADS": "1",
        }

    def _new_proxies(self) -> Proxies:
        of_servers = self.servers.ports
        enter = self._proxies.enter_context
        return Proxies(
            enter(TcpProxy("127.0.0.1", of_servers["postgres"])),
            enter(TcpProxy("127.0.0.1", of_servers["valkey"])),
            enter(S3Proxy(str(self.settings.s3_endpoint))),
        )

    def _start_ours(self) -> None:
        for number in range(2):
            self.start_sweeper(f"sweeper-{number}")
        api_port = ports.choose(("api",), {})["api"]
        self.api_url = f"http://127.0.0.1:{api_port}"
        self._start("api", ["api", "--port", str(api_port)], {})
        for slot in ("cpu-0", "cpu-1"):
            self.start_worker(slot)
        self.wait_for_workers("cpu-0", "cpu-1")

    def _start(
        self, name: str, arguments: list[str], extra: Mapping[str, str], *, current: bool = False
    ) -> None:
        logs = self.data / "logs"
        logs.mkdir(exist_ok=True)
        earlier = self._release if not current else None
        module = ["tests.faults.launch", *arguments]
        if earlier:
            module = [*EARLIER[arguments[0]], *arguments[1:]]
        self.servers.supervisor.start(
            Program(
                name=name,
                command=[sys.executable, "-m", *module],
                log=logs / f"{name}.log",
                environment={**self.environment(), **extra},
                directory=earlier or ROOT,
                grace_s=10,
                stage=1,
            )
        )


def _through(url: str, port: int) -> str:
    """``url`` with the port of a proxy."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.replace(f":{parts.port}", f":{port}")).geturl()
