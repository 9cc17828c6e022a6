"""A worker whose disk is full: no fault of its jobs, which go back and say why they wait."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import Engine

from jobs.services import Services
from storage import views
from storage.lifecycle import JobStatus
from tests.integration.batches import Generating, jobs, submit
from workers.families.diffusion import debug, generate, load
from workers.runner import Runner

# diffusers 0.42 hands torch tensors to numpy 2 in its schedulers.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

FULL = Path("/dev/full")
"""A device of Linux that has no space left, whatever is written to it."""


def write_to_full_disk() -> None:
    """Fail as any program does that writes there."""
    with FULL.open("wb", buffering=0) as file:
        file.write(b"x")


def mount(folder: Path, options: str) -> bool:
    """Put a file system in memory there, or change it; False: that cannot be done here."""
    tool = shutil.which("mount")
    if sys.platform != "linux" or tool is None:
        return False
    command = [tool, "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    if not mount(tmp_path, "size=1m"):
        pytest.skip("only root can mount a disk, on Linux")
    yield tmp_path
    subprocess.run([str(shutil.which("umount")), str(tmp_path)], check=True)


def with_cache(services: Services, folder: Path) -> Services:
    """The services of a worker that keeps its models in ``folder``."""
    settings = services.settings.model_copy(update={"cache_dir": folder})
    return replace(services, settings=settings)


def test_no_space_for_a_model(
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    small_disk: Path,
    make_runner: Callable[..., Runner],
    *,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Jobs go back without losing an attempt, nothing half-written stays, and space mends it."""
    submit(services, tenant_id, {}, {})
    runner = make_runner(with_cache(services, small_disk))
    for pause_s in (1, 2):
        caplog.clear()
        assert runner.run_next()
        assert set(jobs(engine).values()) == {("queued", 0, "disk_full")}
        assert runner.pause_s == pause_s
        left = {path.suffix for path in (small_disk / "models").iterdir()}
        assert left == {".lock"}
        [said] = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert str(small_disk) in said
        assert "PRESSWORK_CACHE_DIR" in said

    assert mount(small_disk, "remount,size=64m")
    assert runner.run_next()
    assert set(jobs(engine).values()) == {("succeeded", 1, None)}
    assert runner.pause_s == 0


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has a device that is always full")
@pytest.mark.parametrize("where", ["fetching", "loading", "generating"])
def test_whoever_writes_there(
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    make_runner: Callable[..., Runner],
    tmp_path: Path,
    *,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    """Fetching, loading and generating alike, also behind a library's own error."""

    def fail(*_: object) -> None:
        try:
            write_to_full_disk()
        except OSError as error:
            raise RuntimeError("the model could not be kept") from error

    opened = services
    match where:
        case "fetching":
            monkeypatch.setattr(debug, "build", fail)
            opened = with_cache(services, tmp_path)
        case "loading":
            monkeypatch.setattr(load, "load", fail)
        case "generating":
            monkeypatch.setattr(generate, "generate", Generating(fail))
    submit(services, tenant_id, {}, {})
    runner = make_runner(opened)
    assert runner.run_next()
    assert set(jobs(engine).values()) == {("queued", 0, "disk_full")}
    assert runner.pause_s == 1


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has a device that is always full")
def test_who_polls_sees_why(
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    make_runner: Callable[..., Runner],
    *,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While it is queued the job says what it waits for, in general terms; a success clears it."""
    (job_id,) = submit(services, tenant_id, {})
    with monkeypatch.context() as patch:
        patch.setattr(load, "load", lambda *_: write_to_full_disk())
        assert make_runner().run_next()

    def seen() -> views.JobView:
        with engine.begin() as connection:
            view = views.job(connection, tenant_id, job_id)
        assert view
        return view

    view = seen()
    assert view.status is JobStatus.QUEUED
    assert view.error
    assert view.error["code"] == "disk_full"
    assert "disk" in view.error["message"]
    assert "/" not in view.error["message"]
    assert make_runner().run_next()
    assert (seen().status, seen().error) == (JobStatus.SUCCEEDED, None)
