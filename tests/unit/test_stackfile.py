import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.stackfile import AlreadyRunningError, StackInfo, lock, read, write, write_private


def stack(data: Path) -> StackInfo:
    """A stack that answers nowhere."""
    return StackInfo(
        pid=os.getpid(),
        data=data,
        api_url="http://127.0.0.1:8000",
        api_key="pw_hidden",
        ports={"postgres": 5432},
        environment={"PRESSWORK_DATABASE_URL": "postgresql+psycopg://u:hidden@127.0.0.1/p"},
    )


def mode(path: Path) -> int:
    """The permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_written_under_the_lock_can_be_read(tmp_path: Path) -> None:
    """A running stack is found with everything that it announced."""
    with lock(tmp_path):
        write(stack(tmp_path))
        assert read(tmp_path) == stack(tmp_path)


def test_there_is_no_stack_where_none_was_started(tmp_path: Path) -> None:
    """A directory that does not exist has no stack."""
    assert read(tmp_path / "missing") is None


def test_a_stack_that_is_coming_up_is_not_there_yet(tmp_path: Path) -> None:
    """Holding the lock is not enough."""
    with lock(tmp_path):
        assert read(tmp_path) is None


def test_a_stopped_stack_is_gone(tmp_path: Path) -> None:
    """The file goes with the lock."""
    with lock(tmp_path):
        write(stack(tmp_path))
    assert read(tmp_path) is None
    assert not (tmp_path / "stack.json").exists()


def test_a_second_owner_is_refused(tmp_path: Path) -> None:
    """The error names the process that owns the directory."""
    with lock(tmp_path), pytest.raises(AlreadyRunningError) as caught, lock(tmp_path):
        pass
    assert caught.value.pid == os.getpid()
    with lock(tmp_path):
        pass


KILLED = """
import os, signal, sys
from pathlib import Path
from jobs.stackfile import StackInfo, lock, write
data = Path(sys.argv[1])
with lock(data):
    write(StackInfo(os.getpid(), data, "", "", {}, {}))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_stack_is_not_running(tmp_path: Path) -> None:
    """What an owner that was killed left behind passes neither for a stack nor for a lock."""
    subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )
    assert (tmp_path / "stack.json").exists()
    assert read(tmp_path) is None
    with lock(tmp_path):
        assert read(tmp_path) is None


def test_secrets_are_for_their_owner_only(tmp_path: Path) -> None:
    """The file and a new data directory are closed to others, and a repr tells no secrets."""
    data = tmp_path / "new"
    with lock(data):
        write(stack(data))
        assert mode(data) == 0o700
        assert mode(data / "stack.json") == 0o600
    assert "hidden" not in repr(stack(data))


def test_a_private_file_replaces_one_that_was_open(tmp_path: Path) -> None:
    """The mode of the file before does not matter, nor does a write that was interrupted."""
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o644)
    (tmp_path / ".file.new").write_text("half")
    write_private(path, "new")
    assert path.read_text() == "new"
    assert mode(path) == 0o600
    assert list(tmp_path.iterdir()) == [path]
