"""Compiled code for the modules of a worker: asked for, waited for without waiting, and used."""

import fcntl
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

import torch

from workers import compile_results, compiling
from workers.compile_results import CompileResults
from workers.compiling import Signature, signature_of
from workers.report import Report
from workers.sickness import sickness_of

_log = logging.getLogger(__name__)

Plan = Literal["blocks", "whole", "eager"]
"""What of a module is compiled: each of the blocks that it repeats, all of it, or nothing."""

CALLS_BEFORE = 50
"""How often a module is called eager with a signature that is then worth compiling."""
STATES = 8
"""How many states of a module are compiled for one signature: adapters on, off, others."""
COUNTED = (
    "compiles",
    "saved_results",
    "eager_fallbacks",
    "recompiles",
    "recompile_limit",
    "compile_failures",
)

Asks = Literal["at once", "often", "never"]
"""When a signature is worth compiling: at its first call, after some, or not now."""

FOLDER, LOCK = "presswork-compiled-", "lock"
"""How a process's folder is called, and the file in it that is locked while the process lives."""

_COMMAND = "from workers.compiling import main; main()"

PATIENCE_S = 300
"""How long code is left to another worker that compiles it: longer than a compilation takes."""
LOOK_S = 1.0
"""How often to look whether it has come."""


class NotCompiledError(RuntimeError):
    """A call ran eager where only compiled code was wanted."""


class _ElsewhereError(Exception):
    """Another worker is compiling just this."""


@dataclass
class _Known:
    """What is known of a signature: how often it was called, and the code for it by digest."""

    calls: int = 0
    codes: dict[str, Any] = field(default_factory=dict)  # None: not there yet, or never
    checked: Any = None
    """The code that was right for the last call, which was made ``within`` this."""
    within: object | None = None


class Compiled(torch.nn.Module):  # type: ignore[misc]
    """A module that runs compiled code where there is some for a call, and else is as it was.

    Its attributes are those of ``plain``. To change its state, change the modules within.
    """

    def __init__(self, plain: torch.nn.Module, compiler: "Compiler", name: str, after: int) -> None:
        super().__init__()
        self.plain = plain
        self._compiler = compiler
        self._name = name
        self._after = after
        self._known: dict[Signature, _Known] = {}
        self._refused = False

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("plain"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own, or code compiled from it."""
        signature = signature_of(args, kwargs)
        known = self._known.setdefault(signature, _Known()) if signature else _Known()
        within = self._compiler.within
        if within is not None and within is known.within:
            return known.checked.fn(self.plain, *args, **kwargs)
        if code := self._code(known, args, kwargs):
            known.checked, known.within = code, within
            return code.fn(self.plain, *args, **kwargs)
        self._compiler.fall_back(self._name)
        known.calls += 1
        if signature and self._compiler.wants(known.calls, self._after) and not self._refused:
            self._ask(known, args, kwargs)
        return self.plain(*args, **kwargs)

    def _code(self, known: _Known, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The code for the call in the module's present state."""
        refused = False
        for digest in known.codes:
            code = known.codes[digest] = known.codes[digest] or self._compiler.code(digest)
            if code is None:
                continue
            if code.guard_check(self.plain, *args, **kwargs):
                return code
            refused = True
        if refused:
            self._compiler.count("recompiles")
        return None

    def _ask(self, known: _Known, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        known.calls = 0  # in another state, it counts from here
        if known.codes and any(code is None for code in known.codes.values()):
            return
        if len(known.codes) == STATES:
            _log.error(
                "%s has been compiled in %d states for one signature and is in yet another: "
                "it runs EAGER, and slow",
                self._name,
                STATES,
            )
            self._compiler.count("recompile_limit")
            return
        try:
            packed = compiling.pack(self.plain, args, kwargs)
            around = compile_results.environment(self.plain)
        except Exception as error:  # noqa: BLE001 (pickle raises what it likes)
            _log.warning("%s cannot be compiled: %s", self._name, error)
            self._compiler.count("compile_failures")
            self._refused = True
            return
        digest = compiling.digest(packed, around)
        if digest in known.codes:
            _log.error("%s runs EAGER: its code refuses what it was compiled for", self._name)
            return
        known.codes[digest] = None
        self._compiler.ask(digest, packed, self._name)


class Compiler:
    """Gets compiled code for a worker process, out of its way.

    A thread looks in the bucket, and otherwise has a process compile, one signature at a time. The
    worker computes eager meanwhile, and only stops to load what has come. The process's own
    ``torch.compile`` is not used: nothing can be compiled anew, or fall back, unseen.
    """

    def __init__(self, results: CompileResults | None = None, report: Report | None = None) -> None:
        self._results = results
        self._report = report or Report()
        for what in COUNTED:
            self._report.count(what, 0)
        remove_left_folders()
        # It has its name, by which others find it, once it is locked.
        made = Path(tempfile.mkdtemp(prefix="presswork-"))
        self._lock_file = (made / LOCK).open("w")
        fcntl.flock(self._lock_file, fcntl.LOCK_EX)
        self._folder = made.rename(made.with_name(made.name.replace("presswork-", FOLDER, 1)))
        self._kernels = self._folder / compiling.KERNELS
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(self._kernels)
        self._lock = threading.Condition()
        self._counters = Counter(dict.fromkeys(COUNTED, 0))
        self._queue: SimpleQueue[tuple[str, bytes, str] | None] = SimpleQueue()
        self._under_way = 0
        self._arrived: dict[str, bytes] = {}
        self._loaded: dict[str, Any] = {}
        self._asked: set[str] = set()
        self._child: subprocess.Popen[str] | None = None
        self._closed = False
        self._ended = threading.Event()
        self._strict = False
        self.asks: Asks = "often"
        """What is worth compiling of what is called from now on."""
        self.within: object | None = None
        """The block within which no module's state changes; None: it may."""
        self._thread = threading.Thread(target=self._work, name="compiling", daemon=True)
        self._thread.start()

    def wrap(
        self, module: torch.nn.Module, plan: Plan, name: str, after: int = CALLS_BEFORE
    ) -> torch.nn.Module:
        """``module`` by its plan, which for ``blocks`` changes it in place.

        ``after`` is how many eager calls make a signature worth compiling.
        """
        if plan == "whole":
            return Compiled(module, self, name, after)
        repeated = set(getattr(module, "_repeated_blocks", None) or ())
        if plan == "blocks":
            for path, block in list(module.named_modules()):
                if type(block).__name__ in repeated:
                    block_name = f"{name}.{type(block).__name__}"
                    module.set_submodule(path, Compiled(block, self, block_name, after))
        return module

    @property
    def counters(self) -> Mapping[str, int]:
        """How often what happened, in this process; see `COUNTED`."""
        with self._lock:
            return dict(self._counters)

    def count(self, what: str) -> None:
        """Note that it happened."""
        with self._lock:
            self._counters[what] += 1
        self._report.count(what)

    def fall_back(self, name: str) -> None:
        """Note that a call runs eager; NotCompiledError: `strictly` forbids it."""
        self.count("eager_fallbacks")
        if self._strict:
            raise NotCompiledError(f"{name} has no compiled code for this call")

    @contextmanager
    def strictly(self) -> Iterator[None]:
        """Within, a call that would run eager fails: for tests."""
        self._strict = True
        try:
            yield
        finally:
            self._strict = False

    @contextmanager
    def steadily(self) -> Iterator[None]:
        """Within, no module's state changes: code that was right once for a signature stays so.

        To check it takes as long as some small layers, and would be done at every step.
        """
        before, self.within = self.within, object()
        try:
            yield
        finally:
            self.within = before

    @contextmanager
    def urgently(self) -> Iterator[None]:
        """Within, each signature is worth compiling at its first call."""
        before, self.asks = self.asks, "at once"
        try:
            yield
        finally:
            self.asks = before

    def wants(self, calls: int, after: int) -> bool:
        """Whether a signature that was called so often is worth compiling."""
        return self.asks == "at once" or (self.asks == "often" and calls >= after)

    def ask(self, digest: str, packed: bytes, name: str) -> None:
        """Have it compiled, or fetched; `code` has it some time later. Once for each digest."""
        with self._lock:
            if digest in self._asked or self._closed:
                return
            self._asked.add(digest)
            self._under_way += 1
        self._queue.put((digest, packed, name))

    def code(self, digest: str) -> Any:
        """The code that was asked for, loaded; None: there is none, yet or ever."""
        with self._lock:
            archive = self._arrived.pop(digest, None)
        if archive is not None:
            try:
                graph = compile_results.unpack(archive, self._kernels)
                self._loaded[digest] = compiling.load(graph)
            except Exception as error:
                if sickness_of(error):
                    raise
                _log.warning("compiled code cannot be loaded: it runs eager", exc_info=True)
                self.count("compile_failures")
        return self._loaded.get(digest)

    def wait(self, timeout_s: float) -> bool:
        """Wait until nothing is being compiled; False: it took too long. For tests."""
        with self._lock:
            return self._lock.wait_for(lambda: self._under_way == 0, timeout_s)

    def close(self) -> None:
        """End what is under way, and remove what was written on this machine."""
        self._ended.set()
        with self._lock:
            self._closed = True
            if self._child:
                self._child.kill()
        self._queue.put(None)
        self._thread.join()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._lock_file.close()

    def _work(self) -> None:
        put_off: dict[str, float] = {}
        while (job := self._queue.get()) is not None and not self._closed:
            digest, packed, name = job
            since_s = put_off.setdefault(digest, time.monotonic())
            archive = None
            try:
                archive = self._archive(digest, packed, name, waited_s=time.monotonic() - since_s)
            except _ElsewhereError:
                self._queue.put(job)  # there may be other code to compile meanwhile
                self._ended.wait(LOOK_S)
                continue
            except Exception:  # noqa: BLE001 (the next may go better)
                _log.warning("%s could not be compiled: it runs eager", name, exc_info=True)
                self.count("compile_failures")
            with self._lock:
                if archive is not None:
                    self._arrived[digest] = archive
                self._under_way -= 1
                self._lock.notify_all()

    def _archive(self, digest: str, packed: bytes, name: str, waited_s: float) -> bytes | None:
        """From the bucket, or else compiled and put there; None: it failed, which was said.

        Raises:
            _ElsewhereError: another worker is just compiling it.
        """
        if self._results is None:
            return self._compiled(digest, packed, name)
        if (saved := self._results.read(digest)) is not None:
            self.count("saved_results")
            return saved
        if not self._results.reserve(digest) and waited_s < PATIENCE_S:
            raise _ElsewhereError
        try:
            return self._compiled(digest, packed, name)
        finally:
            self._results.release(digest)

    def _compiled(self, digest: str, packed: bytes, name: str) -> bytes | None:
        """Compiled here; None: it failed, which was said."""
        folder = self._folder / digest
        folder.mkdir()
        try:
            (folder / compiling.JOB).write_bytes(packed)
            error = self._compile(folder)
            if self._closed:
                return None
            if error is not None:
                _log.warning("%s could not be compiled, and runs eager: %s", name, error)
                self.count("compile_failures")
                return None
            archive = compile_results.pack(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self.count("compiles")
        _log.info("compiled %s: %.1f MB", name, len(archive) / 1e6)
        if self._results:
            self._results.save(digest, archive)
        return archive

    def _compile(self, folder: Path) -> str | None:
        """Compile in another process; why that failed."""
        kernels = folder / compiling.KERNELS
        kernels.mkdir()
        with self._lock:
            if self._closed:
                return "the worker ends"
            self._child = subprocess.Popen(
                [sys.executable, "-c", _COMMAND, str(folder)],
                env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(kernels)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        with self._child as child:
            _, said = child.communicate()
        if child.returncode == 0:
            return None
        return (said.strip().splitlines() or [f"exit code {child.returncode}"])[-1][:500]


def remove_left_folders() -> None:
    """Remove what processes that were killed have left of compiled code on this machine."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        with suppress(OSError), (folder / LOCK).open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
