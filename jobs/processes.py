"""Child processes: started with a log, started again after a crash, ended as a whole group."""

import ctypes
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from jobs.stackfile import write_private

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 10.0
STEADY_S = 30.0
"""A program that ran this long counts as healthy: its next crash is a first one."""

PARENT = "PRESSWORK_PARENT_PID"
PR_SET_PDEATHSIG = 1

log = logging.getLogger(__name__)


def die_with_parent(how: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send us ``how`` when the process that started us ends (Linux only).

    For our own programs, at their start: a parent killed with -9 cannot stop its children.
    """
    # Taken out of the environment, because it is not the parent of our own children.
    parent = int(os.environ.pop(PARENT, os.getppid()))
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(how), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it ended before the kernel knew of our wish
        os.kill(os.getpid(), how)


def end_with_stack(how: signal.Signals = signal.SIGTERM) -> None:
    """`die_with_parent` for programs that a service manager may start as well, to stand alone."""
    if PARENT in os.environ:
        die_with_parent(how)


def bound_to_parent(command: Sequence[str], how: signal.Signals) -> list[str]:
    """`die_with_parent` for a ``command`` that is not ours, where setpriv (util-linux) exists."""
    setpriv = shutil.which("setpriv")
    prefix = [setpriv, "--pdeathsig", how.name.removeprefix("SIG")] if setpriv else []
    return [*prefix, *command]


@dataclass(frozen=True, kw_only=True)
class Program:
    """What a child runs. ``environment`` is added to ours; ``log`` is appended to."""

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    directory: Path | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    grace_s: float = 10.0
    """How long it may take to end after ``stop_signal`` before it is killed."""
    stage: int = 0
    """Programs of a higher stage need those of the lower ones, and are stopped before them."""


class Child:
    """One running program."""

    def __init__(self, program: Program, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.program = program
        self._clock = clock
        self._delay_s = FIRST_DELAY_S
        self._restart_at: float | None = None
        self._asked = False
        self._start()

    @property
    def pid(self) -> int:
        """Changes when the program is started again."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative is the signal that ended it."""
        return self._process.poll()

    def wait(self, timeout_s: float) -> int:
        """The exit code; raises subprocess.TimeoutExpired if it still runs."""
        return self._process.wait(timeout_s)

    def poll(self) -> bool:
        """Start the program again if it has ended and its delay is over; True if so."""
        if self.exit_code is None:
            return False
        if self._restart_at is None:
            self._restart_at = self._plan_restart()
        if self._clock() < self._restart_at:
            return False
        self._start()
        return True

    def ask_to_stop(self) -> None:
        """Send the stop signal, once: a second one means haste to many programs."""
        if self.exit_code is None and not self._asked:
            self._asked = True
            self._process.send_signal(self.program.stop_signal)

    def stop(self) -> None:
        """Ask it to end, wait, and kill what is left of its process group."""
        if self._restart_at is not None:
            return  # it crashed and so its group was killed; its pid may be somebody else's
        self.ask_to_stop()
        if self.exit_code is None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(self.program.grace_s)
        _kill_group(self.pid)
        self._process.wait()

    def _start(self) -> None:
        # The kernel's "parent death" is the death of the thread that forked.
        assert threading.current_thread() is threading.main_thread()
        with self.program.log.open("ab") as output:
            self._process = subprocess.Popen(
                self.program.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.program.environment, PARENT: str(os.getpid())},
                cwd=self.program.directory,
                # Ctrl-C in the terminal is for the owner, which stops us in its own order.
                start_new_session=True,
            )
        self._started_at = self._clock()
        self._restart_at = None

    def _plan_restart(self) -> float:
        _kill_group(self.pid)  # its own children may hold a port or a device
        now = self._clock()
        steady = now - self._started_at >= STEADY_S
        delay_s = FIRST_DELAY_S if steady else self._delay_s
        self._delay_s = min(delay_s * 2, LONGEST_DELAY_S)
        log.warning(
            "%s ended with exit code %s, starting it again in %.1f s (log: %s)",
            self.program.name,
            self.exit_code,
            delay_s,
            self.program.log,
        )
        return now + delay_s


class Supervisor:
    """Children that are kept running together. Use it from the main thread only.

    ``record`` is a file in which the running children are kept, so that the next owner can
    end what an owner that was killed left behind (see `end_orphans`).
    """

    def __init__(self, record: Path | None = None) -> None:
        self.children: list[Child] = []
        self._record = record

    def start(self, program: Program) -> Child:
        """Start ``program`` and keep it running from now on."""
        child = Child(program)
        self.children.append(child)
        self._write_record()
        return child

    def poll(self) -> None:
        """Start again what crashed. Call it every second or so."""
        restarted = [child for child in self.children if child.poll()]
        if restarted:
            self._write_record()

    def drop(self, child: Child) -> None:
        """Stop one child for good."""
        child.stop()
        self.children.remove(child)
        self._write_record()

    def stop(self) -> None:
        """Stop all children: the highest stage first, those of one stage together."""
        for stage in sorted({child.program.stage for child in self.children}, reverse=True):
            leaving = [child for child in self.children if child.program.stage == stage]
            for child in leaving:
                child.ask_to_stop()
            for child in leaving:
                self.drop(child)

    def _write_record(self) -> None:
        if self._record:
            entries = [entry for child in self.children if (entry := _entry(child))]
            write_private(self._record, json.dumps(entries, indent=2))


def end_orphans(record: Path) -> None:
    """End the children in ``record`` that still run: their owner was killed with -9."""
    if not record.exists():
        return
    for entry in reversed(json.loads(record.read_text())):
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(entry["pid"])
            # The clock's step is 10 ms; any other process under this pid came much later.
            if abs(process.create_time() - entry["create_time"]) < 1:
                log.warning("ending %s (pid %d) of an earlier run", entry["name"], process.pid)
                end(process, signal.Signals(entry["stop_signal"]), entry["grace_s"])
    record.unlink()


def end(process: psutil.Process, stop_signal: signal.Signals, grace_s: float) -> None:
    """End a process that is not our child: ``stop_signal``, then SIGKILL to its group."""
    with suppress(psutil.NoSuchProcess):
        process.send_signal(stop_signal)
    if not wait_gone(process, grace_s):
        _kill_group(process.pid)
        wait_gone(process, grace_s)


def wait_gone(process: psutil.Process, timeout_s: float) -> bool:
    """Whether it ended within the time. A zombie has: only its parent can remove it."""
    deadline = time.monotonic() + timeout_s
    while _is_alive(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _kill_group(leader: int) -> None:
    # PermissionError: what macOS says of a group of zombies.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _entry(child: Child) -> dict[str, object] | None:
    try:
        create_time = psutil.Process(child.pid).create_time()
    except psutil.NoSuchProcess:
        return None
    return {
        "name": child.program.name,
        "pid": child.pid,
        "create_time": create_time,
        "stop_signal": int(child.program.stop_signal),
        "grace_s": child.program.grace_s,
    }
