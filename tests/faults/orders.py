"""Faults on order: a process that comes to a named point carries out the order that lies there.

The suite writes an order as a file; the first process that comes by takes it with a rename, which
only one can win, and reports when and where. Without an order a point costs one failed rename.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VARIABLE = "PRESSWORK_FAULTS"
"""The environment variable that names the folder with the orders."""

HOLD_LIMIT_S = 60
LOOK_S = 0.001


@dataclass(frozen=True)
class Report:
    """An order that was carried out: by which process of which slot, and when (Unix time)."""

    at: float
    pid: int
    parent: int
    slot: str


class Orders:
    """The orders of one house, seen from the suite that gives them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("open", "taken", "done", "released"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def give(self, point: str, action: str, *, to: str | None = None) -> None:
        """Whoever comes to ``point`` next does ``action``; ``to``: only the worker of that slot."""
        name = f"{point}@{to}" if to else point
        for stale in ("taken", "done", "released"):
            (self.folder / stale / point).unlink(missing_ok=True)
        _write(self.folder / "open" / name, {"action": action})

    def stand(self, point: str, **facts: Any) -> None:
        """Until `clear`, everyone at ``point`` finds ``facts`` (see `standing`)."""
        _write(self.folder / "open" / point, facts)

    def report(self, point: str) -> Report | None:
        """Who has carried out the order at ``point``; None: nobody yet."""
        try:
            return Report(**json.loads((self.folder / "done" / point).read_text()))
        except FileNotFoundError:
            return None

    def release(self, point: str) -> None:
        """Let the process go on that holds at ``point``."""
        (self.folder / "released" / point).touch()

    def clear(self) -> None:
        """Take back every order, and let go whoever holds."""
        for path in [*(self.folder / "open").iterdir(), *(self.folder / "taken").iterdir()]:
            (self.folder / "released" / path.name.partition("@")[0]).touch()
            path.unlink(missing_ok=True)


class Post:
    """The orders seen from a process that may have to carry them out."""

    def __init__(self, folder: Path, slot: str) -> None:
        self._folder = folder
        self._slot = slot

    def reach(self, point: str) -> None:
        """Carry out the order for ``point``, if there is one for us."""
        for name in (point, f"{point}@{self._slot}"):
            with suppress(FileNotFoundError):
                # Only one process can win this.
                (self._folder / "open" / name).rename(self._folder / "taken" / point)
                action = json.loads((self._folder / "taken" / point).read_text())["action"]
                self._done(point)
                ACTIONS[action](self._folder / "released" / point)
                return

    def standing(self, point: str) -> dict[str, Any]:
        """The facts that stand at ``point``; empty where none do."""
        try:
            facts: dict[str, Any] = json.loads((self._folder / "open" / point).read_text())
        except FileNotFoundError:
            return {}
        return facts

    def _done(self, point: str) -> None:
        report = Report(time.time(), os.getpid(), os.getppid(), self._slot)
        _write(self._folder / "done" / point, vars(report))


class OrderedError(Exception):
    """Raised because an order says so."""


def _kill_child(_: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_both(_: Path) -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _stop(_: Path) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _hold(released: Path) -> None:
    pause, deadline = threading.Event(), time.monotonic() + HOLD_LIMIT_S
    while not released.exists() and time.monotonic() < deadline:
        pause.wait(LOOK_S)


def _note(_: Path) -> None:
    pass


def _raise(_: Path) -> None:
    raise OrderedError


ACTIONS: dict[str, Callable[[Path], None]] = {
    "kill-child": _kill_child,
    "kill-both": _kill_both,
    "stop": _stop,
    "hold": _hold,
    "note": _note,
    "raise": _raise,
}
"""What can be ordered. Each gets the path whose existence ends a hold."""


def _write(path: Path, content: dict[str, Any]) -> None:
    """At once: nobody must read half an order."""
    new = path.parent.parent / f".{path.name}.{os.getpid()}.{threading.get_ident()}"
    new.write_text(json.dumps(content))
    new.rename(path)
