"""Models by the command and over HTTP."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from jobs.registry.specs import FAMILY_KINDS
from jobs.services import Services
from jobs.settings import Settings
from storage.models import BUILT_IN
from storage.objects import model_key
from tests.integration.doors import PROBLEM, as_tenant, new_key, rows, served
from tests.integration.test_cli import Run, environment, run
from tests.model_trees import lora, pipeline, write

__all__ = ["environment", "run"]

WEIGHTS = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture
def client(settings: Settings, tenant_id: UUID, engine: Engine) -> Iterator[TestClient]:
    """A client of the API with an administrator's key."""
    with served(settings, new_key(engine, is_admin=True)) as serving:
        yield serving


def spec(folder: Path, **changes: object) -> dict[str, Any]:
    """A model in a directory, as the API takes it."""
    given = {"name": "mugs", "source": f"dir:{folder}", "licence": "MIT", "size": "64x64"}
    return {**given, **changes}


def test_from_the_command(run: Run, services: Services, tmp_path: Path) -> None:
    """A model is added, listed, shown, checked and retired, and jobs take its limits."""
    folder = pipeline(tmp_path / "model", number=30)
    write(folder / "vae" / "config.json", {"block_out_channels": [1] * 5})
    write(folder / ".gitignore", "x")
    options = ["--licence", "CC-BY-NC-4.0", "--attribution", "Ada", "--licence-until", "2099-12-31"]
    options += [
        "--size",
        "64x48",
        "--steps",
        "3",
        "--details",
        "strength=false",
        "--details",
        '{"max_sequence_length": 64}',
    ]
    said = run("model", "add", "mugs", "--source", f"dir:{folder}", *options, "--json")
    assert (said.code, said.err) == (0, "left out: .gitignore\n")
    card = json.loads(said.out)
    assert (card["size_multiple_px"], card["default_size"]) == (16, "64x48")
    assert card["licence_until"] == "2099-12-31"
    details = card["details"]
    assert (details["strength"], details["max_sequence_length"]) == (False, 64)
    assert run("model", "show", "mugs", "--json").document == card
    shown = run("model", "show", "mugs").out
    assert f"  {card['manifest'][WEIGHTS]['sha256']}  {WEIGHTS}\n" in shown
    assert "commercial use: not allowed\n" in shown
    assert "attribution: Ada\n" in shown
    listed = run("model", "list", "--json").document
    assert [model["name"] for model in listed] == sorted([*BUILT_IN, "mugs"])
    assert (
        f"mugs@{card['revision']}: diffusion, CC-BY-NC-4.0, dir:{folder}\n"
        in run("model", "list").out
    )

    job = {"kind": "image", "request": {"prompt": "x", "model": "mugs", "size": "64x56"}}
    file = write(tmp_path / "job.json", job)
    assert (
        "request.model: the licence of 'mugs' (CC-BY-NC-4.0) forbids commercial use"
        in run("job", "submit", file).err
    )
    write(file, {**job, "use": "internal"})
    assert "multiples of 16; nearest to 56: 48 or 64" in run("job", "submit", file).err

    assert run("model", "check", "mugs").out == "ok\n"
    services.objects.delete([model_key(card["manifest"][WEIGHTS]["sha256"])])
    checked = run("model", "check", "mugs", "--json")
    assert checked.code == 1
    assert json.loads(checked.out)["wrong"][0].startswith(f"{WEIGHTS}: the bucket has no ")

    assert ", retired on 2" in run("model", "retire", "mugs").out
    assert "request.model: 'mugs' was retired on" in run("job", "submit", file).err
    for command, said_of in [
        (("retire", "debug-diffusion"), "is built in and cannot be retired"),
        (("check", "debug-diffusion"), "has no files in the bucket"),
        (("show", "nobody"), "there is no model 'nobody'"),
    ]:
        wrong = run("model", *command)
        assert (wrong.code, wrong.out) == (2, "")
        assert said_of in wrong.err


@pytest.mark.parametrize(
    ("family", "details"),
    [
        *((family, {}) for family in FAMILY_KINDS),
        ("causal_lm", {"prompts": {"summary": "summarize: {text}"}}),
        ("diffusion", {"tasks": ["inpaint"]}),
        ("video", {"tasks": ["image-to-video"], "prompt": False}),
    ],
)
def test_a_model_of_each_sort(
    run: Run, tmp_path: Path, family: str, details: dict[str, Any]
) -> None:
    """Every family takes models, also those that want a picture or know but one recipe."""
    options = ["--licence", "MIT", "--family", family, "--details", json.dumps(details)]
    source = f"dir:{pipeline(tmp_path / 'model')}"
    said = run("model", "add", "mugs", "--source", source, *options, "--json")
    assert json.loads(said.out)["kind"] == FAMILY_KINDS[family]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "hub:a/b"], "--source: a hub source needs a revision"),
        (["--source", "http://x"], "--source: use dir:PATH, hub:ORG/NAME@REVISION, s3:PREFIX or"),
        (["--source", "dir:/none"], "--source: there is no directory /none on this machine"),
        (["--size", "big"], "--size: 'big' is not WIDTHxHEIGHT"),
        (["--size", "64x64", "--max-side", "32"], "--size: 64x64: model 'mugs' takes at most 32"),
        (["--steps", "1001"], "--steps: Input should be less than or equal to 1000"),
        (["--guidance", "101"], "--guidance: Input should be less than or equal to 100"),
        (["--licence", " "], "--licence: must not be empty"),
        (["--licence-until", "soon"], "--licence-until: Input should be a valid date"),
        (["--commercial", "perhaps"], "--commercial: Input should be a valid boolean"),
        (["--family", "difusion"], "--family: unknown family 'difusion'; did you mean 'diffusion'"),
        (["--adapter-for", "mug"], "--adapter-for: there is no model 'mug'"),
        (["--details", "tone"], "--details: tone: it is neither a JSON object nor KEY=VALUE"),
    ],
)
def test_a_model_that_could_not_be_used(
    run: Run, engine: Engine, tmp_path: Path, arguments: list[str], message: str
) -> None:
    """A model whose source or options are wrong is refused, and the option named."""
    good = ["--source", f"dir:{pipeline(tmp_path)}", "--licence", "MIT", "--size", "64x64"]
    said = run("model", "add", "mugs", *good, *arguments)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(message)
    assert rows(engine)["models"] == 0


def test_a_model_name_is_taken_once(run: Run, engine: Engine, tmp_path: Path) -> None:
    """A registered model never changes its meaning, nor does a built-in one."""
    options = ["--source", f"dir:{pipeline(tmp_path)}", "--licence", "MIT"]
    assert run("model", "add", "mugs", *options).code == 0
    for name in ("mugs", "debug-diffusion"):
        said = run("model", "add", name, *options)
        assert (said.code, said.err) == (2, f"a model {name} is registered already\n")
    assert rows(engine)["models"] == 1


def test_over_http(client: TestClient, engine: Engine, tmp_path: Path) -> None:
    """An administrator does the same over HTTP; a tenant sees what there is, but not where from."""
    added = client.post("/v1/models", json=spec(pipeline(tmp_path / "model", number=31)))
    assert added.status_code == 201, added.text
    model = added.json()
    assert client.get("/v1/models/mugs").json() == model
    adapter = spec(lora(tmp_path / "lora"), name="glow", adapter_for="mugs")
    details = client.post("/v1/models", json=adapter).json()["details"]
    assert (details["rank"], details["layers"], details["bank"]) == (4, 1, True)
    tenant = as_tenant(new_key(engine))
    listed = client.get("/v1/models", headers=tenant).json()
    assert [(each["name"], each["base"]) for each in listed] == sorted(
        [*((name, None) for name in BUILT_IN), ("glow", "mugs"), ("mugs", None)]
    )
    assert {each["source"] for each in listed} == {None}
    seen = client.get("/v1/models/mugs", headers=tenant).json()
    assert seen == {**model, "source": None}
    assert client.post("/v1/models/mugs/check").json() == {"model": "mugs", "wrong": []}
    assert client.post("/v1/models/mugs/retire").json()["retired_at"]
    kinds = {kind["name"]: kind for kind in client.get("/v1/kinds").json()}
    assert kinds["image"]["models"] == ["debug-diffusion"]


def test_only_administrators_change_models(
    client: TestClient, engine: Engine, tmp_path: Path
) -> None:
    """Any other key is told how to get one; nothing is read of what it sends."""
    tenant = as_tenant(new_key(engine))
    client.post("/v1/models", json=spec(pipeline(tmp_path)))
    for path in ("", "/mugs/check", "/mugs/retire"):
        answer = client.post(f"/v1/models{path}", headers=tenant, content=b"no JSON")
        assert (answer.status_code, answer.headers["content-type"]) == (403, PROBLEM)
        assert "presswork tenant add NAME --admin" in answer.json()["detail"]
    assert client.get("/v1/models/mugs").json()["retired_at"] is None


def test_problems_over_http(client: TestClient, engine: Engine, tmp_path: Path) -> None:
    """What is wrong with a model is a list of problems, each with its file or its field."""
    folder = pipeline(tmp_path)
    assert client.post("/v1/models", json=spec(folder)).status_code == 201
    assert client.post("/v1/models", json=spec(folder)).status_code == 409
    write(folder / "a.py", "x")
    write(folder / "b.bin", "x")
    answer = client.post("/v1/models", json=spec(folder, name="cups"))
    assert answer.status_code == 422
    assert [error["file"] for error in answer.json()["errors"]] == ["a.py", "b.bin"]
    answer = client.post("/v1/models", json=spec(folder, name="a/b", licenze="MIT"))
    assert [error["field"] for error in answer.json()["errors"]] == ["name", "licenze"]
    assert client.post("/v1/models", json=[]).status_code == 422
    assert client.get("/v1/models/nobody").status_code == 404
    assert client.post("/v1/models/debug-diffusion/retire").status_code == 409
    assert rows(engine)["models"] == 1


def test_an_administrators_key(run: Run, settings: Settings) -> None:
    """The command makes one, and only when it is asked to."""
    keys = [run("tenant", "add", "acme", *options).out.strip() for options in ([], ["--admin"])]
    for key, status in zip(keys, (403, 409), strict=True):
        with served(settings, key) as client:
            assert client.post("/v1/models/debug-gan/retire").status_code == status
            assert client.post("/v1/models/nobody/retire").status_code == 404
