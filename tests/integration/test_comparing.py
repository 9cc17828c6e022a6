"""Adapters compared on the same prompts and seeds, as one picture."""

import io
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from PIL import Image
from sqlalchemy import Engine, text
from typer.testing import CliRunner

from jobs.cli.main import app
from jobs.problems import BadInputError
from jobs.services import Services
from jobs.standalone import Servers
from jobs.trainings import comparing
from jobs.trainings.comparing import Comparison
from storage import models
from storage.models import ADAPTER, ModelCard
from tests.integration.doors import claimed, fail, rows, succeed
from tests.waiting import until


@pytest.fixture
def adapters(engine: Engine) -> None:
    """Two for the embedded model, and one for another."""
    for name, base in {"glow": "debug-diffusion", "matte": "debug-diffusion", "far": "x"}.items():
        with engine.begin() as connection:
            card = ModelCard(name, "diffusion", ADAPTER, "s3:x", "MIT", base=base, manifest={})
            models.add(connection, card)


def asked(engine: Engine) -> list[tuple[str, dict[str, Any]]]:
    """The status and the request of each job, in the order of their submission."""
    with engine.begin() as connection:
        found = connection.execute(text("SELECT status, request FROM jobs ORDER BY id")).all()
    return [(row.status, row.request) for row in found]


@pytest.mark.usefixtures("adapters", "tenant_id")
def test_adapters_side_by_side(
    services: Services, engine: Engine, servers: Servers, tmp_path: Path
) -> None:
    """The same prompts and seeds without, and with each; what was not made says why."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cup\n\n", encoding="utf-8")
    given = (
        f"train compare glow matte --prompt mug --prompts {prompts} --seeds 3,4 --steps 2 --json"
    )
    arguments = [*given.split(), "--size", "64x64", "--out", str(tmp_path / "sheet.png")]
    with ThreadPoolExecutor() as threads:
        command = threads.submit(CliRunner().invoke, app, arguments, env=servers.environment)
        until(lambda: rows(engine)["jobs"] == 12 or command.done())
        made: dict[UUID, bytes] = {}
        for number in range(3):  # a batch of each column
            batch = claimed(services)
            if number == 2:
                fail(services, batch)
            else:
                made |= succeed(services, batch)
        done = command.result()
    assert done.exit_code == 1, done.output
    said = json.loads(done.stdout)
    assert (said["columns"], said["failed"]) == (["without", "glow", "matte"], 4)
    requests = [request for _, request in asked(engine)]
    assert {(one["prompt"], one["seed"]) for one in requests[:3]} == {("mug", 3)}
    assert [one["prompt"] for one in requests[::3]] == ["mug", "mug", "a cup", "a cup"]
    assert [[use["name"] for use in one["adapters"]] for one in requests[:3]] == [
        [],
        ["glow"],
        ["matte"],
    ]
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.mode == "RGB"
    colours = {colour for _, colour in sheet.getcolors(sheet.width * sheet.height) or ()}
    expected = {Image.open(io.BytesIO(data)).getpixel((0, 0)) for data in made.values()}
    assert len(made) == 8
    assert expected <= colours


def test_strengths_are_weights_of_one_adapter() -> None:
    """Whatever the caller gives, the model alone is the first column, and once."""
    columns = comparing.of_strengths("glow", [0, 0.5, 1])
    assert columns == {
        "without": [],
        "glow 0.5": [{"name": "glow", "weight": 0.5}],
        "glow 1": [{"name": "glow", "weight": 1}],
    }


def test_a_comparison_that_ends_early_leaves_no_work(
    adapters: None, services: Services, engine: Engine, tenant_id: UUID
) -> None:
    """What was submitted before something was refused, or somebody gave up, is cancelled."""
    comparison = Comparison("debug-diffusion", comparing.of_strengths("glow", [1, 9]), ["mug"], [1])
    with pytest.raises(BadInputError, match="weight"):
        comparing.run(services, tenant_id, comparison)
    assert [status for status, _ in asked(engine)] == ["cancelled", "cancelled"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["glow", "far"], "different models (debug-diffusion, x)"),
        (["glow", "debug-diffusion"], "'debug-diffusion' is a model, not an adapter"),
    ],
)
def test_what_cannot_be_compared(
    adapters: None, services: Services, tenant_id: UUID, names: Sequence[str], message: str
) -> None:
    """Adapters of several models have no common base to be compared with."""
    with pytest.raises(BadInputError) as caught:
        comparing.model_of(services, tenant_id, names)
    assert message in str(caught.value)


def test_a_sheet_has_an_end(services: Services, engine: Engine, tenant_id: UUID) -> None:
    """Too many pictures are refused before the first is made."""
    comparison = Comparison("debug-diffusion", {"without": []}, ["mug"], range(257))
    with pytest.raises(BadInputError, match="at most 256"):
        comparing.run(services, tenant_id, comparison)
    assert rows(engine)["jobs"] == 0
