"""Trainings by the command and over HTTP: submitted, estimated, capped, listed and continued."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, text
from starlette.testclient import TestClient

from jobs.datasets import keeping
from jobs.services import Services
from jobs.settings import Settings
from jobs.trainings import parts
from jobs.trainings.requests import TrainRequest
from storage import job_events, models, tenants, training_speeds
from storage.job_events import NewEvent
from storage.models import ModelCard
from tests.dataset_files import imagefolder, photo
from tests.integration.doors import claimed, fail, new_key, rows, served
from tests.integration.test_cli import Run, environment, run

__all__ = ["environment", "run"]

RECIPE = """\
kind: train
name: things
dataset:
  name: pictures
  source: dir:pictures
  licence: MIT
  consent: no person is shown
size: 32x32
steps: 100
batch: 4
architecture:
  type: vae
  widths: [8, 16]
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe, with its pictures beside it."""
    folder = tmp_path / "recipe"
    (folder / "pictures").mkdir(parents=True)
    for name, body in imagefolder(3).items():
        (folder / "pictures" / name).write_bytes(body)
    path = folder / "recipe.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@pytest.fixture
def client(settings: Settings, tenant_id: UUID, engine: Engine) -> Iterator[TestClient]:
    """A client of the API with a key of the default tenant."""
    with served(settings, new_key(engine)) as serving:
        yield serving


def request_of(engine: Engine, job_id: str) -> dict[str, Any]:
    """What a job was asked for."""
    with engine.begin() as connection:
        found = connection.execute(text("SELECT request FROM jobs WHERE id = :id"), {"id": job_id})
        return dict(found.scalar_one())


def succeeded(engine: Engine, job_id: str) -> None:
    """Say that the job has."""
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE jobs SET status = 'succeeded', finished_at = now() WHERE id = :id"),
            {"id": job_id},
        )


def made(engine: Engine, tenant_id: UUID, name: str) -> None:
    """Register a model of the tenant's own."""
    card = ModelCard(f"default/{name}", "vae", "vae", "s3:x", "MIT", tenant_id=tenant_id)
    with engine.begin() as connection:
        models.add(connection, card)


def test_from_the_recipe_to_the_queue(
    run: Run, engine: Engine, recipe: Path, tmp_path: Path
) -> None:
    """The dataset is added once, the id is all that stdout has, and the estimate stands beside."""
    first = run("train", "submit", recipe)
    assert (first.code, first.err) == (0, "100 steps; how long they take was not measured yet\n")
    request = request_of(engine, first.out.strip())
    assert (request["dataset"], request["name"]) == ("pictures", "things")
    second = run("train", "submit", recipe, "--name", "others", "--priority", 5, "--json").document
    assert (second["priority"], second["estimate"]["pictures_seen"]) == (5, 400)
    assert (rows(engine)["datasets"], rows(engine)["jobs"]) == (1, 2)

    # Other pictures in the same place are another dataset, wherever they come from.
    elsewhere = shutil.copytree(recipe.parent / "pictures", tmp_path / "elsewhere")
    (recipe.parent / "pictures" / "1.png").write_bytes(photo(9))
    changed = run("train", "submit", recipe, "--name", "third")
    assert (changed.code, "with another content" in changed.err) == (2, True)
    source = ("--source", f"dir:{elsewhere}")
    assert run("train", "submit", recipe, "--name", "third", *source).code == 0
    # Without them it is the one that is there.
    shutil.rmtree(recipe.parent / "pictures")
    assert run("train", "submit", recipe, "--name", "fourth").code == 0
    assert (rows(engine)["datasets"], rows(engine)["jobs"]) == (1, 4)


def test_what_a_recipe_gets_wrong(run: Run, engine: Engine, recipe: Path) -> None:
    """What is only found later has its line as well; nothing is queued."""
    here = str(recipe)
    recipe.write_text(RECIPE.replace("dir:pictures", "dir:no"), encoding="utf-8")
    wrong = run("train", "submit", recipe)
    assert wrong.err.startswith(f"{here}:5: dataset.source: there is no directory")
    assert run("train", "submit", recipe, "--source", "zip:no").err.startswith("--source: there is")
    recipe.write_text(RECIPE.replace("  source: dir:pictures\n", ""), encoding="utf-8")
    assert run("train", "submit", recipe).err.startswith(f"{here}:3: dataset.source: say where")
    bad = recipe.parent / "pictures" / "1.png"
    bad.write_bytes(b"<svg/>")
    recipe.write_text(RECIPE, encoding="utf-8")
    assert run("train", "submit", recipe).err == "1.png: is SVG: send PNG, JPEG or WebP\n"
    bad.write_bytes(photo(1))
    recipe.write_text(RECIPE.replace("32x32", "33x33"), encoding="utf-8")
    assert run("train", "submit", recipe).err.startswith(f"{here}:8: size: 33x33: pictures are")
    named = RECIPE.replace("dataset:\n", "dataset: none\nx:\n").partition("x:")[0]
    recipe.write_text(named + "architecture: {type: vae}\n", encoding="utf-8")
    assert run("train", "submit", recipe).err.startswith(f"{here}:3: dataset: you have no dataset")
    refused = run("train", "submit", recipe, "--source", "dir:x").err
    assert refused.startswith("--source: the recipe does not say")
    assert rows(engine)["jobs"] == 0


def test_a_name_is_taken_once(run: Run, engine: Engine, tenant_id: UUID, recipe: Path) -> None:
    """By one that is on its way, and by what is there; but the same key gives the same job."""
    key = ("--idempotency-key", "k")
    first = run("train", "submit", recipe, *key).out
    refused = run("train", "submit", recipe)
    says = f"name: training {first.strip()}, which is queued, will make it; choose another"
    assert (refused.code, says in refused.err) == (2, True)
    assert run("train", "submit", recipe, *key).out == first
    succeeded(engine, first.strip())
    made(engine, tenant_id, "things")
    assert "there is 'default/things' already" in run("train", "submit", recipe).err
    assert run("train", "submit", recipe, *key).out == first
    other = run("train", "submit", recipe, *key, "--name", "others")
    assert (other.code, "was used for a different job" in other.err) == (2, True)


def test_waiting(run: Run, recipe: Path) -> None:
    """It ends with the job, and its exit code says how."""
    key = ("--idempotency-key", "k")
    job_id = run("train", "submit", recipe, *key).out.strip()
    run("job", "cancel", job_id)
    said = run("train", "submit", recipe, *key, "--wait")
    assert (said.code, said.out) == (1, f"{job_id}\n{job_id}: train, cancelled, attempt 0\n")


def test_going_on(
    run: Run, client: TestClient, engine: Engine, recipe: Path, services: Services
) -> None:
    """The same request with more steps; what decides the tensors must be as it was."""
    first = run("train", "submit", recipe).out.strip()
    more = ("train", "continue", first, "--name", "more", "--steps", 150)
    assert "continue_from: " in run(*more).err
    assert "has not succeeded: it is queued" in run(*more).err
    succeeded(engine, first)
    fewer = run("train", "continue", first, "--name", "more", "--steps", 100)
    assert fewer.err.startswith("steps: 100 in all: ask for more than the 100 that were made")
    second = run(*more, "--json").document
    before, after = request_of(engine, first), request_of(engine, second["id"])
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"name", "steps", "continue_from"}
    assert second["estimate"]["steps"] == 50

    given = {name: after[name] for name in ("dataset", "size", "steps", "architecture")}
    given |= {"name": "third", "continue_from": first}
    assert client.post("/v1/jobs", json={"kind": "train", "request": given}).status_code == 202
    wrong = {
        **given,
        "name": "fourth",
        "size": "64x64",
        "architecture": {"type": "gan"},
        "seed": 1,
        "held_out": 0.1,
        "optimizer": "prodigy",
        "ema": 0.9,
        "steps": 9,
    }
    answer = client.post("/v1/jobs", json={"kind": "train", "request": wrong})
    fields = {problem["field"] for problem in answer.json()["errors"]}
    names = ("architecture", "size", "held_out", "seed", "optimizer", "ema", "steps")
    assert fields == {f"request.{name}" for name in names}
    with served(services.settings, new_key(engine, "acme")) as other:
        answer = other.post("/v1/jobs", json={"kind": "train", "request": given})
        assert f"you have no training {first}" in answer.text
    finetune = {"name": "x", "dataset": "pictures", "model": "debug-diffusion", "size": "32x32"}
    finetune["continue_from"] = first
    answer = client.post("/v1/jobs", json={"kind": "finetune", "request": finetune})
    assert f"{first} is of the kind train, and this of finetune" in answer.text
    nowhere = run("train", "continue", uuid4(), "--name", "x", "--steps", 1)
    assert (nowhere.code, nowhere.err.startswith("there is no training")) == (2, True)


def test_the_list(run: Run, services: Services, recipe: Path) -> None:
    """Newest first, with state and how far each has told to be."""
    assert run("train", "list").out == "no trainings yet\n"
    first = run("train", "submit", recipe).out.strip()
    batch = claimed(services)
    for step in (20, 40):
        told = {"step": step, "steps": 100, "eta_s": 300.0}
        event = NewEvent("progress", told)
        assert job_events.add(services.engine, batch.claim_id, UUID(first), [event])
    second = run("train", "submit", recipe, "--name", "others").out.strip()
    assert run("train", "list").out.splitlines() == [
        f"{second}: train others, queued, 100 steps",
        f"{first}: train things, running, step 40 of 100, 5 min left",
    ]
    assert [one["makes"] for one in run("train", "list", "--json").document] == ["others", "things"]
    fail(services, batch)
    assert "failed, step 40 of 100\n  out_of_memory: too big" in run("train", "list").out


def measured(engine: Engine, request: dict[str, Any], device: str, steps_per_s: float) -> None:
    """Have trainings like that one measured on a device."""
    (part,) = parts.parts_of(TrainRequest.model_validate(request), None)
    training_speeds.keep(
        engine,
        device=device,
        digest=part.digest,
        sort=part.sort,
        work=part.work,
        says=part.says,
        steps_per_s=steps_per_s,
    )


def test_estimates(run: Run, client: TestClient, engine: Engine, recipe: Path) -> None:
    """Measured where that was done; else in proportion to what is nearest, and said to be so."""
    request = {
        "name": "x",
        "dataset": "pictures",
        "size": "32x32",
        "steps": 100,
        "batch": 4,
        "architecture": {"type": "vae", "widths": [8, 16]},
    }
    estimate = run("train", "estimate", recipe, "--json").document
    assert estimate == {
        "steps": 100,
        "seconds": None,
        "from_what": "not measured yet",
        "pictures_seen": 400,
        "device": None,
    }
    assert (rows(engine)["datasets"], rows(engine)["jobs"]) == (0, 0)
    measured(engine, {**request, "batch": 16}, "h100", 1.0)
    measured(engine, {**request, "size": "64x64", "batch": 2}, "h100", 4.0)
    assert run("train", "estimate", recipe).out == (
        "100 steps, about 12 s (a guess, scaled from vae: 2 a step at 64x64, on h100)\n"
    )
    measured(engine, request, "cpu x2", 5.0)
    measured(engine, {**request, "batch": 8}, "h100", 1.0)  # later, but a guess
    run("train", "submit", recipe)
    body = {"kind": "train", "request": {**request, "name": "things"}}
    answer = client.post("/v1/trainings/estimate", json=body)
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "steps": 100,
            "seconds": 20.0,
            "from_what": "measured here",
            "pictures_seen": 400,
            "device": "cpu x2",
        },
    )
    assert rows(engine)["jobs"] == 1
    wrong = client.post("/v1/trainings/estimate", json={"kind": "image", "request": {}})
    assert "'image' is no training" in wrong.text
    unsized = client.post("/v1/trainings/estimate", json={**body, "request": {"name": "x"}})
    assert {one["field"] for one in unsized.json()["errors"]} == {
        "request.dataset",
        "request.architecture",
    }


def test_caps(run: Run, engine: Engine, recipe: Path) -> None:
    """A tenant's own, else the deployment's; what is too much is refused with all three."""
    assert run("tenant", "limits", "default").out == (
        "max steps: 200000 (as for all)\nmax hours: 48 (as for all)\n"
        "max pictures: 10000 (as for all)\n"
    )
    limits = ("tenant", "limits", "default", "--max-steps", 99, "--max-pictures", 2)
    assert "max steps: 99\nmax hours: 48 (as for all)\n" in run(*limits).out
    run("train", "estimate", recipe)
    with engine.begin() as connection:
        tenants.ensure(connection, "acme")
    assert run("tenant", "limits", "acme", "--json").document["max_steps"] == 200_000
    measured(engine, request_for_caps(), "cpu x2", 1 / 3600)
    said = run("train", "submit", recipe)
    assert said.code == 2
    lines = [line.removeprefix(f"{recipe}:") for line in said.err.splitlines()]
    assert [line.partition(" and a training may")[0] for line in lines] == [
        "3: dataset: dataset 'pictures' has 3 pictures,",
        "9: steps: it has 100 steps in all its parts,",
        "9: steps: 100 steps, about 100 h 0 min (measured here, on cpu x2),",
    ]
    assert rows(engine)["jobs"] == 0
    run("tenant", "limits", "default", "--reset", "--max-hours", 101)
    assert run("train", "submit", recipe).code == 0
    unknown = run("tenant", "limits", "nobody")
    assert (unknown.code, unknown.err.startswith("NAME: there is no tenant")) == (2, True)


def request_for_caps() -> dict[str, Any]:
    """What the recipe asks for."""
    return {
        "name": "x",
        "dataset": "x",
        "size": "32x32",
        "steps": 1,
        "batch": 4,
        "architecture": {"type": "vae", "widths": [8, 16]},
    }


def test_trying_again(
    run: Run, services: Services, engine: Engine, tenant_id: UUID, recipe: Path
) -> None:
    """A failed training is queued again as it was, unless its name or its dataset is gone."""
    job_id = run("train", "submit", recipe).out.strip()
    request = request_of(engine, job_id)
    fail(services, claimed(services))
    assert run("job", "retry", job_id, "--json").document["status"] == "queued"
    assert request_of(engine, job_id) == request
    fail(services, claimed(services))
    other = run("train", "submit", recipe).out.strip()
    assert f"name: training {other}, which is queued" in run("job", "retry", job_id).err
    run("job", "cancel", other)
    keeping.remove(services, tenant_id, "pictures")
    refused = run("job", "retry", job_id)
    assert (refused.code, "dataset 'pictures' was removed" in refused.err) == (2, True)


def test_where_trainings_are_named(run: Run, tmp_path: Path) -> None:
    """With their schemas, in a section of their own; a campaign says where they belong."""
    assert "\n\nTrainings, for `presswork train submit`:\n\nfinetune: A LoRA" in run("kinds").out
    assert '"continue_from"' in run("kinds", "train").out
    tried = run("kinds", "finetune", "--try")
    assert (tried.code, tried.err.startswith("--try: trainings are not tried")) == (2, True)
    campaign = tmp_path / "campaign.yaml"
    campaign.write_text(
        json.dumps(
            {
                "name": "x",
                "recipients": {"id": "id", "rows": [{"id": "1"}]},
                "creatives": [{"name": "a", "kind": "train"}],
            }
        )
    )
    said = run("campaign", "submit", campaign).err
    assert "creatives[0].kind: 'train' is a training, not made for each recipient" in said
