"""Models of a tenant's own: for all others, whoever they are, there are none of these names."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError
from starlette.testclient import TestClient

from jobs.registry import adding, keeping
from jobs.registry.specs import ModelSpec
from jobs.schedules.starting import start_due
from jobs.services import Services
from jobs.settings import Settings
from storage import models, tenants, workers
from storage.models import ADAPTER, BUILT_IN, own_name
from storage.workers import State
from tests.integration.doors import campaign, new_key, schedule, served
from tests.integration.ledger_cases import value
from tests.integration.test_cli import Run, environment, run
from tests.model_trees import pipeline

__all__ = ["environment", "run"]

OWN = ["acme/glow", "acme/mugs", "acme/shine"]


@pytest.fixture
def acme(services: Services, engine: Engine, tmp_path: Path) -> UUID:
    """A tenant with a model that has files, an adapter for it, and one for everybody's."""
    files = ModelSpec(
        name="mugs", source=f"dir:{pipeline(tmp_path / 'mugs')}", licence="MIT", size="64x64"
    )
    everybodys = adding.add(services, files).card
    with engine.begin() as connection:
        acme = tenants.ensure(connection, "acme")
        mugs = replace(everybodys, name=own_name("acme", "mugs"), tenant_id=acme)
        debug = BUILT_IN["debug-diffusion"]
        for card in (
            mugs,
            replace(mugs, name=own_name("acme", "glow"), kind=ADAPTER, base=mugs.name),
            replace(mugs, name=own_name("acme", "shine"), kind=ADAPTER, base=debug.name),
        ):
            models.add(connection, card)
    return acme


@pytest.fixture
def clients(settings: Settings, acme: UUID, engine: Engine) -> Iterator[dict[str, TestClient]]:
    """Clients with a key of that tenant's, with another's, and with an administrator's."""
    assert acme
    keys = {
        "acme": new_key(engine, "acme"),
        "other": new_key(engine, "other"),
        "admin": new_key(engine, is_admin=True),
    }
    with ExitStack() as stack:
        yield {name: stack.enter_context(served(settings, key)) for name, key in keys.items()}


def job(model: str, *adapters: str) -> dict[str, object]:
    """A picture."""
    request = {"prompt": "x", "model": model, "size": "64x64"}
    return {"kind": "image", "request": {**request, "adapters": [{"name": a} for a in adapters]}}


def told(client: TestClient, path: str, given: Mapping[str, object]) -> list[str]:
    """What a request is refused for."""
    answer = client.post(path, json=given)
    assert answer.status_code == 422, answer.text
    return [error["message"] for error in answer.json()["errors"]]


def test_who_sees_them(clients: dict[str, TestClient], engine: Engine) -> None:
    """Their tenant does, and where they are from; for all others, administrators too, none is."""
    listed = {
        who: {each["name"]: each for each in client.get("/v1/models").json()}
        for who, client in clients.items()
    }
    assert sorted(listed["acme"]) == sorted([*BUILT_IN, "mugs", *OWN])
    assert set(listed["other"]) == set(listed["admin"]) == {*BUILT_IN, "mugs"}
    assert listed["acme"]["acme/mugs"]["source"].startswith("dir:")
    assert listed["acme"]["mugs"]["source"] is None
    assert clients["acme"].get("/v1/models/acme/mugs").json()["manifest"]
    for who in ("other", "admin"):
        answers = [clients[who].get(f"/v1/models/acme/{name}") for name in ("mugs", "cups")]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert answers[0].json()["detail"] == "there is no model 'acme/mugs'"
    workers.seen(engine, name="a", pool="", device="", state=State(models=["mugs", "acme/mugs"]))
    [worker] = clients["admin"].get("/v1/workers").json()
    assert worker["models"] == ["mugs"]
    kinds = {
        who: next(
            kind["models"] for kind in client.get("/v1/kinds").json() if kind["name"] == "image"
        )
        for who, client in clients.items()
    }
    assert kinds["acme"] == ["acme/mugs", "debug-diffusion", "mugs"]
    assert kinds["other"] == kinds["admin"] == ["debug-diffusion", "mugs"]


def test_who_may_name_them(services: Services, clients: dict[str, TestClient]) -> None:
    """Only their tenant, in jobs, campaigns and schedules; no hint gives them away to others."""
    mine, others = clients["acme"], clients["other"]
    assert mine.post("/v1/jobs", json=job("acme/mugs", "acme/glow")).status_code == 202
    assert mine.post("/v1/jobs", json=job("debug-diffusion", "acme/shine")).status_code == 202
    own = campaign(model="acme/mugs")
    assert mine.post("/v1/campaigns", json=own).status_code == 202
    nightly = mine.post("/v1/schedules", json=schedule(campaign=own))
    assert nightly.status_code == 201
    mine.post(f"/v1/schedules/{nightly.json()['id']}/run-now")
    assert start_due(services, datetime.now(UTC)) == 1
    for name in ("acme/mugs", "acme/mug"):
        unknown = f"unknown model {name!r}; did you mean 'mugs'?"
        assert told(others, "/v1/jobs", job(name)) == [unknown]
        assert told(others, "/v1/campaigns", campaign(model=name)) == [unknown]
        wrong = schedule(campaign=campaign(model=name))
        assert told(others, "/v1/schedules", wrong) == [unknown]
    assert told(mine, "/v1/jobs", job("acme/mug")) == [
        "unknown model 'acme/mug'; did you mean 'acme/mugs'?"
    ]
    unknown = "unknown adapter 'acme/shine'"
    assert told(others, "/v1/jobs", job("debug-diffusion", "acme/shine")) == [unknown]


def test_who_looks_after_them(clients: dict[str, TestClient], engine: Engine) -> None:
    """Their tenant checks and retires them with any key, and administrators everybody's."""
    for who in ("other", "admin"):
        for what in ("check", "retire"):
            assert clients[who].post(f"/v1/models/acme/mugs/{what}").status_code == 404
            assert clients["acme"].post(f"/v1/models/mugs/{what}").status_code == 403
    path = "/v1/models/acme/mugs"
    assert clients["acme"].post(f"{path}/check").json() == {"model": "acme/mugs", "wrong": []}
    assert clients["acme"].post(f"{path}/retire").json()["retired_at"]
    retired = "SELECT array_agg(name) FROM models WHERE retired_at IS NOT NULL"
    assert value(engine, retired) == ["acme/mugs"]
    adapter = {"name": "gloss", "source": "dir:/x", "licence": "MIT", "adapter_for": "acme/mugs"}
    assert "there is no model 'acme/mugs'" in told(clients["admin"], "/v1/models", adapter)[0]


def test_by_the_command(run: Run, acme: UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    """It acts for one tenant, and sees everybody's models and that tenant's."""
    assert acme
    listed = [model["name"] for model in run("model", "list", "--json").document]
    assert listed == sorted([*BUILT_IN, "mugs"])
    for command in ("show", "check", "retire"):
        said = run("model", command, "acme/mugs")
        assert (said.code, said.err) == (2, "there is no model 'acme/mugs'\n")
    monkeypatch.setenv("PRESSWORK_TENANT", "acme")
    listed = [model["name"] for model in run("model", "list", "--json").document]
    assert listed == sorted([*BUILT_IN, "mugs", *OWN])
    assert run("model", "show", "acme/mugs", "--json").document["tenant_id"] == str(acme)
    assert run("model", "check", "acme/mugs").out == "ok\n"
    assert "acme/mugs" in run("kinds", "image").out
    assert ", retired on 2" in run("model", "retire", "acme/mugs").out


def test_names(services: Services, acme: UUID, engine: Engine) -> None:
    """A tenant's own model has its name, and is found by it whoever asks as a worker."""
    card = keeping.found(services, acme, "acme/mugs")
    with engine.begin() as connection:
        assert models.find(connection, "acme/mugs") == card
        assert models.find_for(connection, acme, "acme/mugs") == card
        assert models.find_for(connection, None, "acme/mugs") is None
        with pytest.raises(IntegrityError, match="own_name"):
            models.add(connection, replace(card, name="cups"))
