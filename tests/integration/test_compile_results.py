"""Compiled code in a real bucket: found by who signed it, and by nobody else."""

from collections.abc import Iterator

import pytest
import torch

from jobs.services import Services
from storage.objects import ObjectStore
from tests.unit.test_compiled import WAIT_S, Net
from workers.compile_results import CompileResults
from workers.compiled import Compiler

KEY = "a deployment's signing key"


@pytest.fixture(autouse=True)
def _as_in_a_worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # which a compiler sets
    with torch.inference_mode():
        yield


def test_compiled_once_for_all_workers(services: Services) -> None:
    """What one worker has compiled another loads, and computes the same with."""
    net, x = Net().eval(), torch.randn(3, 4)
    for counted in ("compiles", "saved_results"):
        compiler = Compiler(CompileResults(services.objects, KEY))
        try:
            compiled = compiler.wrap(net, "whole", "net", after=1)
            expected = compiled(x)
            assert compiler.wait(WAIT_S)
            with compiler.strictly():
                assert torch.allclose(compiled(x), expected, atol=1e-6)
            assert compiler.counters[counted] == 1
            assert compiler.counters["compiles"] + compiler.counters["saved_results"] == 1
        finally:
            compiler.close()


def test_compiled_once_by_workers_that_ask_together(services: Services) -> None:
    """Code that several workers need at the same moment is compiled by one, and others' meanwhile.

    One that is killed meanwhile leaves no more than its word, which is waited for only so long.
    """
    results = CompileResults(services.objects, KEY)
    compilers = [Compiler(results) for _ in range(2)]
    try:
        for compiler in compilers:
            compiler.wrap(Net().eval(), "whole", "net", after=1)(torch.randn(5, 4))
        assert all(compiler.wait(WAIT_S) for compiler in compilers)
        counted = [compiler.counters for compiler in compilers]
        assert sum(one["compiles"] for one in counted) == 1
        assert sum(one["saved_results"] for one in counted) == 1
    finally:
        for compiler in compilers:
            compiler.close()
    assert list(services.objects.keys("compiling/")) == []


def test_code_that_nobody_compiles_after_all_is_compiled_here(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed worker said it was compiling does not keep others from it for ever."""
    results = CompileResults(services.objects, KEY)
    monkeypatch.setattr("workers.compiled.PATIENCE_S", 0)
    reserve = results.reserve

    def after_one_that_was_killed(digest: str) -> bool:
        assert reserve(digest)
        return reserve(digest)

    monkeypatch.setattr(results, "reserve", after_one_that_was_killed)
    compiler = Compiler(results)
    try:
        compiler.wrap(Net().eval(), "whole", "net", after=1)(torch.randn(6, 4))
        assert compiler.wait(WAIT_S)
        assert compiler.counters["compiles"] == 1
    finally:
        compiler.close()


def test_only_what_is_signed_is_read(services: Services, caplog: pytest.LogCaptureFixture) -> None:
    """What was changed, moved or signed by others is refused, and a warning says so."""
    objects = services.objects
    results = CompileResults(objects, KEY)
    results.save("one", b"code")
    assert results.read("one") == b"code"
    assert results.read("none") is None
    assert not caplog.records

    stored = objects.get("compiled/one")
    _replace(objects, "two", stored)
    _replace(objects, "tampered", stored[:-1] + b"!")
    _replace(objects, "short", b"")
    CompileResults(objects, "another deployment's key").save("others", b"code")
    for digest in ("two", "tampered", "short", "others"):
        caplog.clear()
        assert results.read(digest) is None
        assert "refused" in caplog.text


def test_written_once(services: Services) -> None:
    """The first result stays: a worker that loads it has what all others have."""
    results = CompileResults(services.objects, KEY)
    results.save("first", b"code")
    results.save("first", b"other code")
    assert results.read("first") == b"code"


def _replace(objects: ObjectStore, digest: str, signed: bytes) -> None:
    objects.put(f"compiled/{digest}", signed, "application/octet-stream")
