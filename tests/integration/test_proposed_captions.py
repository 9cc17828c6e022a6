"""Captions that a model proposes for a dataset's pictures."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner

from jobs.cli.main import app
from jobs.datasets import proposing, reading
from jobs.problems import BadInputError
from jobs.services import Services
from jobs.standalone import Servers
from storage import models
from storage.models import ModelCard
from tests.dataset_files import mask, photo
from tests.integration.doors import rows
from tests.waiting import until
from workers.runner import Runner


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, one with a caption and one with a mask."""
    for number, name in enumerate(("blue", "red", "tea/cup")):
        path = tmp_path / "mugs" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(number))
    (tmp_path / "mugs" / "red.txt").write_text("a red mug", encoding="utf-8")
    (tmp_path / "mugs" / "blue.mask.png").write_bytes(mask())
    return tmp_path / "mugs"


@pytest.mark.usefixtures("tenant_id")
def test_pictures_without_a_caption_get_one(
    engine: Engine,
    servers: Servers,
    make_runner: Callable[..., Runner],
    folder: Path,
) -> None:
    """The file can be put beside the pictures as it is, and the dataset is complete."""
    out = folder / "metadata.jsonl"
    arguments = ["dataset", "caption", "--source", f"dir:{folder}", "--out", str(out), "--json"]
    arguments += ["--model", "debug-caption", "--trigger", "brandx-mug"]
    with ThreadPoolExecutor() as threads:
        command = threads.submit(CliRunner().invoke, app, arguments, env=servers.environment)
        until(lambda: rows(engine)["jobs"] == 2 or command.done())
        runner = make_runner()
        until(runner.run_next)
        done = command.result()
    assert done.exit_code == 0, (done.output, done.exception)
    said = json.loads(done.stdout)
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [line["file_name"] for line in lines] == ["blue.png", "tea/cup.png"]
    assert {line["file_name"]: line["text"] for line in lines} == said["captions"]
    assert all(line["text"].startswith("brandx-mug, ") for line in lines)
    check = ["dataset", "check", "--source", f"dir:{folder}", "--trigger", "brandx-mug", "--json"]
    assert json.loads(CliRunner().invoke(app, check, env=servers.environment).stdout)["count"] == 3
    again = CliRunner().invoke(app, arguments, env=servers.environment)
    assert isinstance(again.exception, FileExistsError)


def test_which_model_describes(services: Services, engine: Engine, tenant_id: UUID) -> None:
    """The only one that is registered; the one that writes gibberish must be asked for."""
    with pytest.raises(BadInputError, match="no model for captions is registered"):
        proposing.model_for(services, tenant_id)
    for name in ("blip", "other"):
        if name == "other":
            assert proposing.model_for(services, tenant_id) == "blip"
        with engine.begin() as connection:
            models.add(connection, ModelCard(name, "caption", "caption", "s3:x", "MIT"))
    with pytest.raises(BadInputError, match="choose one of blip, other"):
        proposing.model_for(services, tenant_id)


def test_a_source_that_is_refused(
    services: Services, engine: Engine, tenant_id: UUID, folder: Path
) -> None:
    """Every picture is looked at before the first one is described."""
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with (
        reading.opened(services, tenant_id, f"dir:{folder}") as material,
        pytest.raises(BadInputError, match=r"broken\.png"),
    ):
        proposing.propose(services, tenant_id, material, "debug-caption")
    assert rows(engine)["jobs"] == 0
