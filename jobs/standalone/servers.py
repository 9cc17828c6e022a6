"""The three servers of the local stack, started and stopped together."""

import subprocess
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Protocol, Self

from jobs import stackfile
from jobs.processes import Child, Program, Supervisor, end_orphans
from jobs.standalone import credentials, ports, seaweed
from jobs.standalone.postgres import Postgres
from jobs.standalone.seaweed import Seaweed
from jobs.standalone.valkey import Valkey

START_TIMEOUT_S = 60.0
ATTEMPTS = 3
LOG_LINES = 15


class Server(Protocol):
    """What is known of one server. Its main port bears its name."""

    name: ClassVar[str]
    port_names: ClassVar[tuple[str, ...]]

    def __init__(
        self, data: Path, ports: Mapping[str, int], credentials: credentials.Credentials
    ) -> None: ...

    def prepare(self) -> Program:
        """Make its directory and its configuration, then say how it is run."""

    def is_ready(self) -> bool:
        """Whether a client gets an answer."""

    def environment(self) -> dict[str, str]:
        """The settings that lead to it."""


# The slowest to come up first, since they come up together.
SERVERS: tuple[type[Server], ...] = (Seaweed, Valkey, Postgres)


class ServerStartError(Exception):
    """A server did not come up; the message ends with the last lines of its log."""


@dataclass(frozen=True)
class _Start:
    """One attempt at starting one server."""

    server: Server
    ports: Mapping[str, int]
    child: Child
    attempt: int


class Servers:
    """PostgreSQL, Valkey and an S3 server on 127.0.0.1, with all they store in ``data``.

    A context manager for the main thread, which owns the data directory meanwhile. ``ports``
    fixes the ports of the servers that it names; ``skip`` names servers that run elsewhere.
    The names are ``postgres``, ``valkey`` and ``s3``. Whoever owns it calls ``supervisor.poll()``
    every second or so, and may start more programs in that supervisor: they stop first.

    Raises:
        AlreadyRunningError: another process owns the data directory.
        PortInUseError: a port in ``ports`` is taken.
        RootError: we are root, and there is no setpriv to run PostgreSQL as somebody else.
        ServerStartError: a server did not come up.
    """

    def __init__(
        self,
        data: Path,
        *,
        ports: Mapping[str, int] | None = None,
        skip: frozenset[str] = frozenset(),
    ) -> None:
        unknown = {*(ports or {}), *skip} - {kind.name for kind in SERVERS}
        if unknown:
            raise ValueError(f"no such server: {', '.join(sorted(unknown))}")
        self.data = data.resolve()
        self.supervisor = Supervisor(self._record)
        self.ports: dict[str, int] = {}
        self.environment: dict[str, str] = {}
        self._given = dict(ports or {})
        self._kinds = [kind for kind in SERVERS if kind.name not in skip]
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(stackfile.lock(self.data))
            (self.data / "logs").mkdir(mode=0o700, exist_ok=True)
            end_orphans(self._record)
            stack.callback(seaweed.remove_sockets, self.data)
            stack.callback(self.supervisor.stop)
            self._start_all()
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._exit.close()

    @property
    def _record(self) -> Path:
        return self.data / "children.json"

    def _start_all(self) -> None:
        """Start all, then wait for all."""
        deadline = time.monotonic() + START_TIMEOUT_S
        pending = [self._start(kind, attempt=1) for kind in self._kinds]
        while pending:
            current = pending.pop(0)
            if current.child.exit_code is not None:
                pending.append(self._start_again(current))
            elif current.server.is_ready():
                name = current.server.name
                self.ports[name] = current.ports[name]
                self.environment.update(current.server.environment())
            elif time.monotonic() > deadline:
                raise start_error(
                    self.data, current.server.name, f"no answer in {START_TIMEOUT_S:.0f} s"
                )
            else:
                pending.append(current)
                time.sleep(0.02)

    def _start(self, kind: type[Server], *, attempt: int) -> _Start:
        chosen = ports.choose(kind.port_names, self._given)
        server = kind(self.data, chosen, credentials.load(self.data))
        try:
            program = server.prepare()
        except subprocess.CalledProcessError as error:
            raise start_error(self.data, kind.name, str(error)) from error
        return _Start(server, chosen, self.supervisor.start(program), attempt)

    def _start_again(self, failed: _Start) -> _Start:
        """Try other ports: between our choice and the start somebody may have taken one."""
        if failed.attempt == ATTEMPTS or failed.server.name in self._given:
            port, code = failed.ports[failed.server.name], failed.child.exit_code
            raise start_error(self.data, failed.server.name, f"exit code {code}, port {port}")
        self.supervisor.drop(failed.child)
        return self._start(type(failed.server), attempt=failed.attempt + 1)


def start_error(data: Path, name: str, reason: str) -> ServerStartError:
    """The error for a program that did not come up, with the end of its log."""
    log = data / "logs" / f"{name}.log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    tail = "\n".join(lines[-LOG_LINES:])
    return ServerStartError(f"{name} did not start ({reason}). {log} ends with:\n{tail}")
