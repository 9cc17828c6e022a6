"""Compiled code beside a working model: when it is used, and what happens when it is not."""

import copy
import io
import logging
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch

from workers import compile_results
from workers.compile_results import BadResultError
from workers.compiled import FOLDER, LOCK, STATES, Compiled, Compiler, NotCompiledError
from workers.compiling import GRAPH, KERNELS, pack

WAIT_S = 600


class Net(torch.nn.Module):  # type: ignore[misc]
    """Two layers and a switch, as an adapter is one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(4, 4)
        self.second = torch.nn.Linear(4, 4)
        self.sign = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A row of numbers for each."""
        y: torch.Tensor = self.second(torch.relu(self.first(x)))
        return y * self.sign


class Broken(Net):
    """Works, but not in one piece."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What no compiler takes whole."""
        torch._dynamo.graph_break()  # noqa: SLF001
        return super().forward(x)


class Repeating(torch.nn.Module):  # type: ignore[misc]
    """Blocks that are alike, as a transformer's."""

    _repeated_blocks = ("Net",)

    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([Net(), Net()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One block after the other."""
        for block in self.blocks:
            x = block(x)
        return x


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def compiler() -> Iterator[Compiler]:
    """One for all, as in a worker; it has compiled a net for three rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # which the compiler sets
        compiler = Compiler()
        yield compiler
        compiler.close()


def wrapped(compiler: Compiler, module: torch.nn.Module, after: int = 1) -> Compiled:
    """The module, compiled after so many calls."""
    made = compiler.wrap(module.eval(), "whole", type(module).__name__, after)
    assert isinstance(made, Compiled)
    return made


def changes(compiler: Compiler, before: Mapping[str, int]) -> dict[str, int]:
    """What has been counted since."""
    now = compiler.counters
    return {name: now[name] - before[name] for name in now if now[name] != before[name]}


def test_eager_until_compiled(compiler: Compiler) -> None:
    """Calls run eager until their code is there, then compiled, to the same result.

    Code serves every module like the one it was made of; one in another state runs eager, counted.
    """
    before = compiler.counters
    net = wrapped(compiler, Net(), after=2)
    x = torch.randn(3, 4)
    expected = net.plain(x)
    assert torch.equal(net(x), expected)
    assert compiler.wait(0)  # once is not worth it
    assert torch.equal(net(x), expected)
    assert compiler.wait(WAIT_S)
    with compiler.strictly():
        assert torch.allclose(net(x), expected, atol=1e-6)
    assert changes(compiler, before) == {"eager_fallbacks": 2, "compiles": 1}

    blocks = compiler.wrap(Repeating().eval(), "blocks", "repeating", after=1)
    expected = blocks(x)  # the code that they ask for is there
    with compiler.strictly():
        assert torch.allclose(blocks(x), expected, atol=1e-6)
    assert changes(compiler, before) == {"eager_fallbacks": 4, "compiles": 1}

    net.plain.sign = -1.0
    assert torch.equal(net(x), net.plain(x))
    assert changes(compiler, before)["recompiles"] == 1
    with compiler.strictly(), pytest.raises(NotCompiledError):
        net(x)


def test_state_is_looked_at_once_where_it_stays(compiler: Compiler) -> None:
    """Where nothing changes code is checked once for all calls, and anew in the next block."""
    net = wrapped(compiler, Net())
    x = torch.randn(3, 4)
    net(x)
    assert compiler.wait(WAIT_S)
    with compiler.strictly(), compiler.steadily():
        compiled = net(x)
        net.plain.sign = -1.0
        assert torch.equal(net(x), compiled)  # it was promised not to change
    before = compiler.counters
    with compiler.steadily():
        assert torch.allclose(net(x), -compiled, atol=1e-6)
    assert changes(compiler, before)["eager_fallbacks"] == 1
    assert compiler.wait(WAIT_S)


def test_too_many_states_are_told(compiler: Compiler, caplog: pytest.LogCaptureFixture) -> None:
    """A module that comes in ever new states runs eager, and an error says so."""
    net = wrapped(compiler, Net())
    x = torch.randn(3, 4)
    net(x)
    (known,) = net._known.values()  # noqa: SLF001 (or this took minutes)
    assert compiler.wait(WAIT_S)
    net(x)
    (code,) = known.codes.values()
    known.codes |= {str(n): code for n in range(STATES - 1)}
    net.plain.sign = 2.0
    with caplog.at_level(logging.ERROR):
        assert torch.equal(net(x), net.plain(x))
    assert "it runs EAGER" in caplog.text


def test_what_cannot_be_compiled_runs_eager(
    compiler: Compiler, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure is a warning and a count, and is not tried again."""
    before = compiler.counters
    net = wrapped(compiler, Broken())
    x = torch.randn(3, 4)
    for _ in range(3):
        assert torch.equal(net(x), net.plain(x))
        assert compiler.wait(WAIT_S)
    assert changes(compiler, before) == {"eager_fallbacks": 3, "compile_failures": 1}
    assert "Broken could not be compiled, and runs eager" in caplog.text


def test_weights_and_places_make_no_difference() -> None:
    """What is compiled depends on shapes, states and the call, not on values or tensors' places."""
    x = torch.randn(3, 4)
    net = Net()
    packed = pack(net, (x,), {})
    assert pack(Net(), (torch.zeros(3, 4),), {}) == packed
    assert pack(copy.deepcopy(net).to(torch.bfloat16), (x,), {}) != packed
    assert pack(net, (torch.randn(2, 4),), {}) != packed
    net.sign = 2.0
    assert pack(net, (x,), {}) != packed


def test_another_process_finds_what_was_saved() -> None:
    """The name of saved code is the same in a process that hashes otherwise."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _PRINT_DIGEST],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in "12"
    ]
    first, second = (process.communicate()[0] for process in processes)
    assert first == second
    assert len(first.strip()) == 64  # hexadecimal digits


_PRINT_DIGEST = """
import torch, diffusers
from workers import compile_results, compiling
model = diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=2)
for name in "abcdefgh":
    model.register_buffer(name, torch.zeros(2), persistent=False)
packed = compiling.pack(model, (torch.zeros(1, 3, 8, 8),), {})
print(compiling.digest(packed, compile_results.environment(model)))
"""


@pytest.mark.parametrize("name", ["../away", f"{KERNELS}/../../away", "/away", "away"])
def test_an_archive_keeps_to_its_folder(tmp_path: Path, name: str) -> None:
    """Saved code writes nothing outside the folder that is its own."""
    with pytest.raises(BadResultError):
        compile_results.unpack(_archive(tarfile.TarInfo(name)), tmp_path / KERNELS)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_archive_has_no_links(tmp_path: Path) -> None:
    """Nor does it lead there."""
    link = tarfile.TarInfo(f"{KERNELS}/link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(BadResultError, match="no place"):
        compile_results.unpack(_archive(link), tmp_path)


def test_an_archive_is_not_larger_than_any_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot fill the disk."""
    monkeypatch.setattr(compile_results, "LARGEST_BYTES", 10)
    member = tarfile.TarInfo(f"{KERNELS}/kernel.so")
    member.size = 11
    with pytest.raises(BadResultError, match="no place"):
        compile_results.unpack(_archive(member), tmp_path)


def test_a_kernel_that_is_loaded_stays_as_it_is(tmp_path: Path) -> None:
    """Code that shares a kernel with other code does not write it anew: a process may run it."""
    member = tarfile.TarInfo(f"{KERNELS}/shared/kernel.so")
    member.size = 4
    compile_results.unpack(_archive(member), tmp_path)
    kernel = tmp_path / "shared/kernel.so"
    kernel.write_bytes(b"mine")  # what is in memory of it changes with it
    compile_results.unpack(_archive(member), tmp_path)
    assert kernel.read_bytes() == b"mine"


def _archive(member: tarfile.TarInfo) -> bytes:
    """One that has ``member`` beside the code."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo(GRAPH))
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    return file.getvalue()


def test_what_killed_processes_have_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the next start, and nothing of one that lives."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # what a compiler sets is put back
    left = tmp_path / f"{FOLDER}left"
    left.mkdir()
    (left / LOCK).touch()
    (left / "kernel.so").touch()
    compilers = [Compiler()]
    assert not left.exists()
    (living,) = tmp_path.iterdir()
    compilers.append(Compiler())
    assert living.exists()
    assert len(list(tmp_path.iterdir())) == len(compilers)
    for compiler in compilers:
        compiler.close()
    assert not list(tmp_path.iterdir())
