"""The producers under examples/ work as they stand."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.stack import ROOT, Running, environment, up


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A running stack."""
    folder = tmp_path_factory.mktemp("examples")
    with up(folder / "data", folder / "up.log") as running:
        yield running


def run(*command: str, **variables: str) -> str:
    """What an example prints."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        env={**environment(), "PATH": path, **variables},
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_http(stack: Running) -> None:
    """A job submitted over HTTP is polled to its end."""
    printed = run(
        *(sys.executable, "examples/producer_http.py"),
        PRESSWORK_URL=stack.info.api_url,
        PRESSWORK_API_KEY=stack.info.api_key,
    )
    assert printed.startswith("succeeded /v1/artifacts/")


def test_command(stack: Running, tmp_path: Path) -> None:
    """A campaign submitted by the command is waited for and fetched."""
    run("examples/producer_command.sh", str(tmp_path / "out"), PRESSWORK_DATA=str(stack.data))
    assert len(list((tmp_path / "out").glob("C-*+hero.png"))) == 24
