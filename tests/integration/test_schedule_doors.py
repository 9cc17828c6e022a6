"""Schedules and files by the command and over HTTP."""

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from jobs import files
from jobs.maintenance import sweeper
from jobs.maintenance.schedules import start_runs
from jobs.services import Services
from jobs.settings import Settings
from jobs.standalone import ports
from storage import tenants
from storage.ledger import fanout
from storage.models import BUILT_IN
from tests.integration.doors import (
    PROBLEM,
    as_tenant,
    campaign,
    new_key,
    rows,
    schedule,
    served,
)
from tests.integration.ledger_cases import execute, value
from tests.integration.schedule_cases import CSV, from_bucket, upload
from tests.integration.test_cli import Run, environment, run
from tests.waiting import until

__all__ = ["environment", "run"]

FILE = """\
name: nightly
cron: "30 1 * * *"
timezone: Europe/Berlin
window: 01:00-06:00
campaign:
  name: Mugs
  recipients: {bucket: lists/mugs.csv, id: id}
  creatives:
    - {name: hero, prompt: "a {{ product }}", size: 64x64}
"""


@pytest.fixture
def client(settings: Settings, tenant_id: UUID, engine: Engine) -> Iterator[TestClient]:
    """A client of the API with the default tenant's key."""
    with served(settings, new_key(engine)) as serving:
        yield serving


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A schedule's file."""
    path = tmp_path / "nightly.yaml"
    path.write_text(FILE, encoding="utf-8")
    return path


def problems(answer: Any) -> list[tuple[str | None, str]]:
    """Field and message of each problem of a refused request."""
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
    return [(error.get("field"), error["message"]) for error in answer.json()["errors"]]


def test_a_schedule_over_http(client: TestClient, services: Services) -> None:
    """It is added, shown, changed, paused, resumed, run, and removed, each answered with it."""
    answer = client.post("/v1/schedules", json=schedule(window="01:00-06:00"))
    assert answer.status_code == 201
    added = answer.json()
    assert (added["window"], added["late"], added["paused_at"]) == ("01:00-06:00", "wait", None)
    assert added["campaign"] == campaign()
    path = f"/v1/schedules/{added['id']}"
    assert client.get(path).json() == added
    assert client.get("/v1/schedules").json() == {"schedules": [added]}
    given = {name: added[name] for name in schedule(window="", late="", overlap="")}
    changed = client.put(path, json={**given, "cron": "0 2 * * *", "overlap": "allow"}).json()
    assert (changed["id"], changed["cron"]) == (added["id"], "0 2 * * *")
    assert changed["overlap"] == "allow"
    assert client.post(f"{path}/pause").json()["paused_at"]
    assert client.get(f"{path}/next").json() == {"fires": []}
    assert client.post(f"{path}/resume").json()["paused_at"] is None
    fires = client.get(f"{path}/next", params={"count": 3}).json()["fires"]
    assert len(fires) == 3
    assert fires[0]["fire_time"] == client.get(path).json()["next_fire_at"]
    assert re.fullmatch(r"\S+T02:00:00\+0[12]:00", fires[0]["local_time"])
    ran = [client.post(f"{path}/run-now") for _ in range(3)]
    assert {answer.status_code for answer in ran} == {202}
    newest_first = [answer.json() for answer in ran][::-1]
    assert (newest_first[0]["trigger"], newest_first[0]["status"]) == ("manual", "due")
    page = client.get(f"{path}/history", params={"limit": 2}).json()
    assert page["runs"] == newest_first[:2]
    rest = client.get(f"{path}/history", params={"limit": 2, "before": page["next"]}).json()
    assert rest == {"runs": newest_first[2:], "next": None}
    assert client.delete(path).status_code == 204
    assert client.get(path).status_code == 404


def test_a_schedule_that_is_refused(client: TestClient, engine: Engine) -> None:
    """Over HTTP, each mistake has its field, and nothing is created."""
    before = rows(engine)
    bad = schedule(cron="x", timezone="Mars", campaign=campaign(creatives=[{"name": "a b"}]))
    assert [field for field, _ in problems(client.post("/v1/schedules", json=bad))] == [
        "cron",
        "timezone",
        "campaign.creatives[0].prompt",
        "campaign.creatives[0].name",
    ]
    unknown = schedule(campaign=campaign(model="x"))
    [(field, message)] = problems(client.post("/v1/schedules", json=unknown))
    assert (field, message) == (
        "campaign.model",
        f"unknown model 'x'; known: {', '.join(BUILT_IN)}",
    )
    assert rows(engine) == before
    client.post("/v1/schedules", json=schedule())
    again = client.post("/v1/schedules", json=schedule())
    assert (again.status_code, again.json()["detail"]) == (
        409,
        "there is a schedule 'nightly' already",
    )


def test_a_file_is_uploaded_and_named(client: TestClient, services: Services) -> None:
    """A campaign over HTTP names what was put to the link; another tenant's key is another file."""
    link = client.post("/v1/files/lists/mugs.csv").json()
    assert (link["key"], link["expires_s"]) == ("lists/mugs.csv", services.settings.link_s)
    theirs = as_tenant(new_key(services.engine, "other"))
    other = client.post("/v1/files/lists/mugs.csv", headers=theirs).json()
    assert other["url"].split("?")[0] != link["url"].split("?")[0]
    with services.engine.begin() as connection:
        upload(services, tenants.find(connection, "default"), "lists/mugs.csv")
    given = from_bucket("lists/mugs.csv")
    assert client.post("/v1/campaigns", json=given).json()["recipients"] == 2
    assert problems(client.post("/v1/campaigns", json=given, headers=theirs)) == [
        (
            "recipients.bucket",
            files.missing("lists/mugs.csv"),
        )
    ]


def test_an_idempotent_campaign_from_the_bucket(
    client: TestClient, services: Services, tenant_id: UUID
) -> None:
    """The key stands for the file's content: the same again, or a conflict."""
    given, headers = from_bucket("list.csv"), {"Idempotency-Key": "once"}
    upload(services, tenant_id, "list.csv")
    first = client.post("/v1/campaigns", json=given, headers=headers).json()["id"]
    assert client.post("/v1/campaigns", json=given, headers=headers).json()["id"] == first
    upload(services, tenant_id, "list.csv", CSV + b"3,pot\n")
    assert client.post("/v1/campaigns", json=given, headers=headers).status_code == 409


def test_bad_keys(client: TestClient) -> None:
    """What is no key, or has a date outside of a schedule, is refused with its field."""
    [(field, message)] = problems(client.post("/v1/files/lists/%2E%2E/%2E%2E/x"))
    assert (field, message.split(":")[0]) == ("key", "is no key")
    assert problems(client.post("/v1/files/{date}.csv")) == [("key", "write the date out")]
    given = from_bucket("{date}.csv")
    assert problems(client.post("/v1/campaigns", json=given)) == [
        ("recipients.bucket", "only a schedule's run has a date; write the file's key out")
    ]
    given = from_bucket("../list.csv")
    [(field, message)] = problems(client.post("/v1/campaigns", json=given))
    assert (field, message.split(":")[0]) == ("recipients.bucket", "is no key")
    answer = client.post(
        "/v1/campaigns",
        data={"campaign": json.dumps(from_bucket("a.csv"))},
        files={"recipients": ("r.csv", CSV)},
    )
    assert problems(answer) == [("recipients.bucket", "give bucket or upload a file, not both")]


def test_the_bucket_is_away(settings: Settings, engine: Engine, tenant_id: UUID) -> None:
    """A campaign whose recipients cannot be fetched is answered with 503, and may be sent again."""
    port = ports.choose(["s3"], {})["s3"]
    elsewhere = settings.model_copy(update={"s3_endpoint": f"http://127.0.0.1:{port}"})
    with served(elsewhere, new_key(engine)) as client:
        answer = client.post("/v1/campaigns", json=from_bucket("list.csv"))
    assert (answer.status_code, answer.headers["content-type"]) == (503, PROBLEM)
    assert answer.headers["retry-after"] == "5"


def test_a_schedule_by_the_command(
    run: Run, services: Services, tmp_path: Path, file: Path
) -> None:
    """From the file to the campaign, for programs and people, by name or id."""
    added = run("schedule", "add", file, "--json").document
    assert (added["name"], added["window"]) == ("nightly", "01:00-06:00")
    assert run("schedule", "list", "--json").document == [added]
    line = f"nightly ({added['id']}): 30 1 * * * in Europe/Berlin, window 01:00-06:00, next "
    assert run("schedule", "list").out.startswith(line)
    said = run("schedule", "add", file)
    assert (said.code, said.err) == (2, "there is a schedule 'nightly' already\n")
    file.write_text(FILE.replace("30 1", "45 1"), encoding="utf-8")
    changed = run("schedule", "add", file, "--replace", "--json").document
    assert (changed["id"], changed["cron"]) == (added["id"], "45 1 * * *")
    fires = run("schedule", "next", "nightly", "--count", "2").out.splitlines()
    assert [re.sub(r"\d{4}-..-..|\+0[12]", "", fire) for fire in fires] == [
        "T01:45:00:00, jobs start from T01:00:00:00 to T06:00:00:00"
    ] * 2
    assert run("schedule", "pause", "nightly").out.endswith("01:00-06:00, paused\n")
    assert run("schedule", "next", "nightly").out == "never, or not before it is resumed\n"
    assert ", next 20" in run("schedule", "resume", added["id"]).out
    assert run("schedule", "history", "nightly").out == "no runs yet\n"
    due = run("schedule", "run-now", "nightly", "--json").document
    assert (due["trigger"], due["status"]) == ("manual", "due")
    assert run("schedule", "history", "nightly", "--json").document == [due]
    (tmp_path / "mugs.csv").write_bytes(CSV)
    put = run("file", "put", tmp_path / "mugs.csv", "lists/mugs.csv")
    assert put.out == "recipients: {bucket: lists/mugs.csv}\n"
    start_runs(services)
    assert [done.jobs for done in fanout.fan_out(services.engine)] == [2]
    shown = run("schedule", "history", "nightly").out
    assert re.fullmatch(r"\S+: started, campaign [0-9a-f-]{36}\n", shown)
    assert run("schedule", "remove", "nightly").out == "removed nightly\n"
    said = run("schedule", "history", "nightly")
    assert (said.code, said.err) == (2, "there is no schedule nightly\n")
    assert value(services.engine, "SELECT count(*) FROM campaigns") == 1


def test_a_bad_schedule_file(run: Run, engine: Engine, file: Path) -> None:
    """The command names file, line and field, also of what only the models can tell."""
    before = rows(engine)
    for old, new, message in [
        ("30 1", "30 25", f"{file}:2: cron: bad hour"),
        ("name: Mugs", "name: Mugs\n  model: x", f"{file}:7: campaign.model: unknown model 'x'"),
        ("a {{ product }}", "{{ a | b }}", f"{file}:9: campaign.creatives[0].prompt: template"),
    ]:
        file.write_text(FILE.replace(old, new), encoding="utf-8")
        said = run("schedule", "add", file)
        assert (said.code, said.out) == (2, "")
        assert said.err.startswith(message)
    assert rows(engine) == before


def test_a_file_that_cannot_be_put(run: Run, tmp_path: Path) -> None:
    """A bad key and a file that is not there are named."""
    said = run("file", "put", tmp_path / "none.csv", "list.csv")
    assert (said.code, said.err) == (1, f"{tmp_path}/none.csv: No such file or directory\n")
    said = run("file", "put", tmp_path / "none.csv", "../list.csv")
    assert (said.code, said.err.split(": ")[:2]) == (2, ["key", "is no key"])


def test_a_campaign_file_may_name_the_bucket(
    run: Run, services: Services, tenant_id: UUID, campaign_folder: Path
) -> None:
    """The command submits a campaign whose recipients lie in the bucket, not beside it."""
    file = campaign_folder / "campaign.yaml"
    file.write_text(file.read_text().replace("file: recipients.csv", "bucket: lists/a.csv"))
    said = run("campaign", "submit", file)
    assert said.code == 2
    assert said.err.startswith(f"{file}:2: recipients.bucket: the bucket has no file lists/a.csv;")
    upload(services, tenant_id, "lists/a.csv", (campaign_folder / "recipients.csv").read_bytes())
    assert run("campaign", "submit", file, "--json").document["recipients"] == 3


def test_the_sweeper_fires(client: TestClient, services: Services, settings: Settings) -> None:
    """With a sweeper running, a schedule whose time has come becomes a campaign with jobs."""
    client.post("/v1/schedules", json=schedule(cron="* * * * *"))
    execute(services.engine, "UPDATE schedules SET next_fire_at = clock_timestamp()")
    stop = threading.Event()
    thread = threading.Thread(target=sweeper.run, args=(settings, stop))
    thread.start()
    try:
        until(lambda: value(services.engine, "SELECT count(*) FROM jobs WHERE status = 'queued'"))
    finally:
        stop.set()
        thread.join()
    [campaign_] = client.get("/v1/campaigns").json()["campaigns"]
    assert (campaign_["status"], campaign_["closes_at"]) == ("running", None)
