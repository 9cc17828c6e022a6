import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from jobs.processes import (
    FIRST_DELAY_S,
    LONGEST_DELAY_S,
    PARENT,
    STEADY_S,
    Child,
    Program,
    Supervisor,
    end_orphans,
    wait_gone,
)


def shell(
    tmp_path: Path, script: str, *, name: str = "child", grace_s: float = 5, stage: int = 0
) -> Program:
    """A program that runs ``script`` in the temporary directory."""
    return Program(
        name=name,
        command=["sh", "-c", script],
        log=tmp_path / "child.log",
        directory=tmp_path,
        grace_s=grace_s,
        stage=stage,
    )


def fifo(tmp_path: Path, name: str = "ready") -> Path:
    """A pipe in the file system: reading it waits until somebody has written."""
    path = tmp_path / name
    os.mkfifo(path)
    return path


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        """The time, in seconds."""
        return self.now


def test_a_crashed_child_is_started_again_after_a_delay_that_doubles(tmp_path: Path) -> None:
    """A program that keeps crashing waits 0.5, 1, 2 ... and at most 10 seconds."""
    clock = Clock()
    child = Child(shell(tmp_path, "exit 3"), clock=clock)
    for delay_s in (0.5, 1, 2, 4, 8, 10, 10):
        assert child.wait(5) == 3
        assert not child.poll()
        clock.now += delay_s - 0.01
        assert not child.poll()
        clock.now += 0.02
        assert child.poll()
    child.stop()
    assert LONGEST_DELAY_S == 10


def test_the_delay_starts_afresh_after_a_steady_run(tmp_path: Path) -> None:
    """A program that ran for 30 seconds is not punished for what was before."""
    clock = Clock()
    child = Child(shell(tmp_path, "exit 0"), clock=clock)
    for ran_s, delay_s in ((0, FIRST_DELAY_S), (0, 2 * FIRST_DELAY_S), (STEADY_S, FIRST_DELAY_S)):
        child.wait(5)
        clock.now += ran_s
        assert not child.poll()
        clock.now += delay_s
        assert child.poll()
    child.stop()


def test_a_restart_ends_what_the_crashed_child_left_behind(tmp_path: Path) -> None:
    """The children of a crashed child do not run beside those of its successor."""
    ready = fifo(tmp_path)
    child = Child(shell(tmp_path, "sleep 60 & echo $! > ready; exit 1"))
    orphan = psutil.Process(int(ready.read_text()))
    child.wait(5)
    child.poll()
    assert wait_gone(orphan, 5)


def test_stop_asks_first(tmp_path: Path) -> None:
    """A child gets its stop signal and the time to end by itself."""
    ready = fifo(tmp_path)
    script = "trap 'echo stopped; exit 7' TERM; echo > ready; sleep 60 & wait"
    child = Child(shell(tmp_path, script))
    ready.read_text()
    child.stop()
    assert child.exit_code == 7
    assert (tmp_path / "child.log").read_text() == "stopped\n"


def test_stop_kills_the_group_of_a_child_that_does_not_listen(tmp_path: Path) -> None:
    """After the grace the child dies, and with it the processes that it started."""
    ready = fifo(tmp_path)
    script = "trap '' TERM; sleep 60 & echo $! > ready; wait"
    child = Child(shell(tmp_path, script, grace_s=0.05))
    grandchild = psutil.Process(int(ready.read_text()))
    child.stop()
    assert child.exit_code == -signal.SIGKILL
    assert wait_gone(grandchild, 5)


def test_signals_of_the_terminal_do_not_reach_children(tmp_path: Path) -> None:
    """A child has its own session, so that Ctrl-C is for its owner alone."""
    child = Child(shell(tmp_path, "sleep 60"))
    assert os.getsid(child.pid) == child.pid
    child.stop()


def test_a_supervisor_stops_the_highest_stage_first(tmp_path: Path) -> None:
    """Who needs the others ends before them, whoever was started first."""
    supervisor = Supervisor()
    for name, stage in (("worker", 2), ("database", 0), ("broker", 1)):
        ready = fifo(tmp_path, name)
        script = f"trap 'echo {name}; exit' TERM; echo > {name}; sleep 60 & wait"
        supervisor.start(shell(tmp_path, script, name=name, stage=stage))
        ready.read_text()
    supervisor.stop()
    assert (tmp_path / "child.log").read_text().split() == ["worker", "broker", "database"]
    assert supervisor.children == []


def test_programs_of_one_stage_stop_together(tmp_path: Path) -> None:
    """Each ends only once the other has been asked: one after the other would be too late."""
    supervisor = Supervisor()
    for name, other in (("one", "two"), ("two", "one")):
        ready = fifo(tmp_path, name)
        script = f"trap 'touch {name}.asked; while [ ! -e {other}.asked ]; do :; done; exit 0' TERM"
        supervisor.start(shell(tmp_path, f"{script}; echo > {name}; sleep 60 & wait", grace_s=30))
        ready.read_text()
    children = list(supervisor.children)
    supervisor.stop()
    assert [child.exit_code for child in children] == [0, 0]


def test_a_supervisor_restarts_only_what_crashed(tmp_path: Path) -> None:
    """The others keep their process."""
    supervisor = Supervisor()
    steady = supervisor.start(shell(tmp_path, "sleep 60"))
    crashing = supervisor.start(shell(tmp_path, "sleep 60"))
    before = steady.pid, crashing.pid
    os.kill(crashing.pid, signal.SIGKILL)
    crashing.wait(5)
    deadline = time.monotonic() + 10 * FIRST_DELAY_S
    while crashing.pid == before[1]:
        assert time.monotonic() < deadline
        supervisor.poll()
    assert steady.pid == before[0]
    supervisor.stop()


def test_orphans_of_an_earlier_owner_are_ended(tmp_path: Path) -> None:
    """The record of the running children is enough to end them."""
    record = tmp_path / "children.json"
    supervisor = Supervisor(record)
    child = supervisor.start(shell(tmp_path, "sleep 60"))
    end_orphans(record)
    assert child.wait(5) == -signal.SIGTERM
    assert not record.exists()


def test_a_pid_that_is_used_again_is_left_alone(tmp_path: Path) -> None:
    """A process counts as an orphan only if it was started when the orphan was."""
    record = tmp_path / "children.json"
    supervisor = Supervisor(record)
    child = supervisor.start(shell(tmp_path, "sleep 60"))
    start = psutil.Process(child.pid).create_time()
    record.write_text(record.read_text().replace(str(start), str(start - 60)))
    end_orphans(record)
    assert child.exit_code is None
    supervisor.stop()


OWNER = """
import sys, signal
from pathlib import Path
from jobs.processes import Program, Supervisor
directory = Path(sys.argv[1])
child = "from jobs.processes import die_with_parent as die; die(); import os, signal; " \\
    "open('ready', 'w').write(str(os.getpid())); signal.pause()"
command = [sys.executable, "-c", child]
Supervisor().start(
    Program(name="child", command=command, log=directory / "log", directory=directory)
)
signal.pause()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    """A program that calls die_with_parent ends when its owner is killed with -9."""
    ready = fifo(tmp_path)
    root = Path(__file__).parents[2]
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    child = psutil.Process(int(ready.read_text()))
    owner.kill()
    owner.wait(5)
    assert wait_gone(child, 5)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_parent_may_die_before_the_child_has_asked(tmp_path: Path) -> None:
    """A child whose parent is not the one that started it ends at once."""
    result = subprocess.run(
        [sys.executable, "-c", "from jobs.processes import die_with_parent as die; die()"],
        env={**os.environ, PARENT: "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )
    assert result.returncode == -signal.SIGTERM
