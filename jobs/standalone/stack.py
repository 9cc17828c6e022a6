"""The whole of Presswork on this machine: the servers, and our own processes on top of them."""

import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from jobs import stackfile
from jobs.devices import parse_devices
from jobs.processes import Program
from jobs.settings import SERVICES, external_services, from_environment
from jobs.stackfile import StackInfo
from jobs.standalone import credentials, ports
from jobs.standalone.servers import Servers, start_error
from storage import database, tenants, workers

READY_TIMEOUT_S = 180
LOOK_S = 0.1
SLOT_GRACE_S = 3.0
WORKER_GRACE_S = 3.5
"""For the supervisor of the slots, which has to outlast theirs."""

DEFAULT_TENANT = "default"


class Stack:
    """A context manager for the main thread; whoever holds it calls `poll` every second or so.

    Services that the environment names are used instead of embedded ones. ``given_ports`` fixes
    ``api``, ``postgres``, ``valkey`` and ``s3``; the others are free ones. ``stopping`` is asked
    while it comes up, and answered with KeyboardInterrupt.

    Raises:
        AlreadyRunningError, PortInUseError, ServerStartError: as `Servers`.
    """

    def __init__(
        self,
        data: Path,
        *,
        given_ports: Mapping[str, int] | None = None,
        devices: str = "all",
        overrides: Mapping[str, str] | None = None,
        say: Callable[[str], None] = lambda _: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._given_ports = dict(given_ports or {})
        api_port = self._given_ports.pop("api", None)
        self._api_given = {} if api_port is None else {"api": api_port}
        self._slots = parse_devices(devices)
        self._devices = devices
        self._overrides = dict(overrides or {})
        self._say = say
        self._stopping = stopping
        self._servers = Servers(data, ports=self._given_ports, skip=external_services())
        self._exit = ExitStack()
        self.data = self._servers.data

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._say("starting PostgreSQL, Valkey and S3")
            stack.enter_context(self._servers)
            self.info = self._start_ours()
            stackfile.write(self.info)
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._exit.close()

    def poll(self) -> None:
        """Start again what crashed."""
        self._servers.supervisor.poll()

    def _start_ours(self) -> StackInfo:
        started = time.monotonic()
        api_key = credentials.load(self.data).api_key
        environment = {
            "PRESSWORK_CACHE_DIR": str(self.data / "cache"),
            **self._servers.environment,
            **self._overrides,
        }
        settings = from_environment(environment)
        engine = settings.engine("presswork up", pool_size=1)
        try:
            self._say("preparing the database and the bucket")
            settings.objects().ensure_bucket()
            database.migrate(engine)
            with engine.begin() as connection:
                tenant_id = tenants.ensure(connection, DEFAULT_TENANT)
                # Its models are the business of whoever runs it.
                tenants.add_key(connection, tenant_id, "local stack", api_key, is_admin=True)
            api_port = ports.choose(("api",), self._api_given)["api"]
            api_url = f"http://127.0.0.1:{api_port}"
            for program in self._programs(environment, api_port):
                self._servers.supervisor.start(program)
            self._say(f"starting the API, the sweeper and {len(self._slots)} worker(s)")
            names = {slot.worker_name for slot in self._slots}
            self._wait("api", lambda: _answers(f"{api_url}/healthz"))
            self._wait("sweeper", lambda: _has_session(engine, "presswork sweeper"))
            self._wait(
                "worker",
                lambda: names <= {*workers.live(engine, within_s=time.monotonic() - started)},
            )
        finally:
            engine.dispose()
        return StackInfo(
            pid=os.getpid(),
            data=self.data,
            api_url=api_url,
            api_key=api_key,
            ports={**self._servers.ports, "api": api_port},
            environment={**_external_environment(), **self._servers.environment},
        )

    def _programs(self, environment: Mapping[str, str], api_port: int) -> list[Program]:
        logs = self.data / "logs"
        sweeper = [sys.executable, "-m", "jobs.cli", "sweeper"]
        api = [sys.executable, "-m", "jobs.web", "--port", str(api_port)]
        worker = [sys.executable, "-m", "workers.main"]
        worker += ["--devices", self._devices, "--logs", str(logs)]
        worker += ["--grace-s", str(SLOT_GRACE_S)]
        return [
            Program(
                name=name,
                command=arguments,
                log=logs / f"{name}.log",
                environment=environment,
                grace_s=grace_s,
                stage=1,
            )
            for name, arguments, grace_s in (
                ("sweeper", sweeper, 1.0),
                ("api", api, 1.0),
                ("worker", worker, WORKER_GRACE_S),
            )
        ]

    def _wait(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not ready():
            if self._stopping():
                raise KeyboardInterrupt
            if time.monotonic() > deadline:
                raise start_error(self.data, name, f"not ready after {READY_TIMEOUT_S} s")
            self.poll()
            time.sleep(LOOK_S)


def _external_environment() -> dict[str, str]:
    """What leads to the services that are not ours, for commands in other shells."""
    return {
        variable: os.environ[variable]
        for name in external_services()
        for variable in SERVICES[name]
        if variable in os.environ
    }


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as response:  # noqa: S310 (our own http URL)
            return bool(response.status == 200)  # noqa: PLR2004
    except (urllib.error.URLError, OSError):
        return False


def _has_session(engine: Engine, application: str) -> bool:
    query = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = :application")
    try:
        with engine.begin() as connection:
            return bool(connection.execute(query, {"application": application}).scalar())
    except DBAPIError:
        return False
