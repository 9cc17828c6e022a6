"""The data directory's lock, and the file that tells others how to reach the running stack."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO

LOCK_WAIT_S = 0.5


@dataclass(frozen=True)
class StackInfo:
    """A running stack.

    ``environment`` holds the settings under which every process of ours reaches its servers:
    PRESSWORK_DATABASE_URL, PRESSWORK_BROKER_URL, PRESSWORK_S3_ENDPOINT and so on.
    """

    pid: int
    data: Path
    api_url: str
    api_key: str = field(repr=False)
    ports: dict[str, int]
    environment: dict[str, str] = field(repr=False)


class AlreadyRunningError(Exception):
    """Another process owns this data directory."""

    def __init__(self, pid: int) -> None:
        super().__init__(f"already running: process {pid} owns this data directory")
        self.pid = pid


@contextmanager
def lock(data: Path) -> Iterator[None]:
    """Own ``data``, made with mode 0700 if it is missing, until the block or the process ends.

    Raises:
        AlreadyRunningError: it has an owner.
    """
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (data / "lock").open("a+") as file:
        _take(file)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        # An owner that was killed could not remove its file, which would pass for ours.
        _path(data).unlink(missing_ok=True)
        try:
            yield
        finally:
            _path(data).unlink(missing_ok=True)


def write(info: StackInfo) -> None:
    """Announce the stack. Called under the `lock`, once everything answers."""
    write_private(_path(info.data), json.dumps(asdict(info), default=str, indent=2))


def read(data: Path) -> StackInfo | None:
    """The stack that runs on ``data``; None while none does or it has not come up."""
    try:
        with (data / "lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        pass  # held by its owner: the file is about a living process
    else:
        return None
    try:
        fields = json.loads(_path(data).read_text())
    except FileNotFoundError:
        return None
    return StackInfo(**{**fields, "data": Path(fields["data"])})


def write_private(path: Path, text: str) -> None:
    """Replace ``path`` at once and for good; only its owner may read it (0600)."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    # The mode is given at creation: a chmod afterwards would leave a moment to read secrets.
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    new.replace(path)


def _path(data: Path) -> Path:
    return data / "stack.json"


def _take(file: TextIO) -> None:
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # A reader holds the lock for a moment to see whether it is free: not an owner.
            if time.monotonic() > deadline:
                file.seek(0)
                raise AlreadyRunningError(int(file.read() or 0)) from None
            time.sleep(0.02)
        else:
            return
