"""Jobs over HTTP: submitted, followed, cancelled, retried, and their artifacts fetched."""

import socket
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from jobs.kinds import KINDS
from jobs.kinds.image import ImageRequest
from jobs.services import Services
from jobs.settings import Settings
from jobs.standalone import ports
from jobs.trainings.requests import TRAININGS
from storage.ledger import cancel
from tests.integration.doors import (
    IMAGE_JOB,
    PROBLEM,
    as_tenant,
    campaign,
    claimed,
    fail,
    fanned_out,
    new_key,
    rows,
    served,
    succeed,
)

ANSWER_LIMIT_S = 5.0
NOWHERE = "00000000-0000-7000-8000-000000000000"


@pytest.fixture
def client(settings: Settings, tenant_id: UUID, engine: Engine) -> Iterator[TestClient]:
    """A client of the API with the default tenant's key."""
    with served(settings, new_key(engine)) as serving:
        yield serving


def submitted(client: TestClient, **changes: object) -> Any:
    """A job that was just queued."""
    answer = client.post("/v1/jobs", json={**IMAGE_JOB, **changes})
    assert answer.status_code == 202, answer.text
    return answer.json()


def detail(client: TestClient, method: str, path: str) -> tuple[int, str]:
    """Status and detail of a request that is answered with a problem."""
    answer = client.request(method, path)
    assert answer.headers["content-type"] == PROBLEM
    return answer.status_code, answer.json()["detail"]


def test_a_job_is_accepted_and_can_be_polled(client: TestClient, services: Services) -> None:
    """The answer is 202 with the queued job, and its id leads to the same job."""
    job = submitted(client, priority=-3)
    assert {**job, "id": None, "created_at": None} == {
        "id": None,
        "kind": "image",
        "status": "queued",
        "campaign_id": None,
        "creative": None,
        "recipient": None,
        "priority": -3,
        "attempts": 0,
        "cancel_requested": False,
        "pause_requested": False,
        "wait_reason": None,
        "error": None,
        "created_at": None,
        "finished_at": None,
        "artifacts": [],
        "needs": [],
    }
    assert client.get(f"/v1/jobs/{job['id']}").json() == job
    batch = claimed(services)
    (stored,) = batch.jobs
    assert str(stored.id) == job["id"]
    resolved = {"size": "64x64", "steps": 8, "guidance": 5.0, "seed": None}
    assert stored.request == {
        **ImageRequest(prompt="a mug").model_dump(mode="json"),
        **resolved,
    }


def test_a_submitted_job_wakes_a_worker(client: TestClient, services: Services) -> None:
    """The broker has one more wake-up for the model's pool."""
    before = services.wake_ups.waiting("default")
    submitted(client)
    assert before is not None
    assert services.wake_ups.waiting("default") == before + 1


def test_every_kind_has_an_example_that_works(client: TestClient) -> None:
    """Each kind comes with its schema and models, and its example is accepted as it stands."""
    kinds = client.get("/v1/kinds").json()
    assert [kind["name"] for kind in kinds] == [*KINDS, *TRAININGS]
    for kind in kinds[: len(KINDS)]:
        assert kind["schema"] == KINDS[kind["name"]].Request.model_json_schema()
        assert kind["default_model"] in kind["models"]
        assert client.post("/v1/jobs", json=kind["example"]).status_code == 202
    for kind in kinds[len(KINDS) :]:
        assert kind["schema"] == TRAININGS[kind["name"]].model_json_schema()
        assert TRAININGS[kind["name"]].model_validate(kind["example"]["request"])


def test_a_finished_job_has_its_artifact(client: TestClient, services: Services) -> None:
    """A succeeded job tells where its bytes lie, what they are and how they came about."""
    job_id = submitted(client)["id"]
    batch = claimed(services)
    assert client.get(f"/v1/jobs/{job_id}").json()["status"] == "running"
    made = succeed(services, batch)
    job = client.get(f"/v1/jobs/{job_id}").json()
    artifact = job["artifacts"][0]
    assert (job["status"], job["attempts"], job["finished_at"] > job["created_at"]) == (
        "succeeded",
        1,
        True,
    )
    assert artifact["size_bytes"] == len(made[UUID(job_id)])
    assert artifact["object_key"] in services.objects.keys("artifacts/")
    assert artifact["facts"] == {
        "width": 16,
        "height": 8,
        "seed": 0,
        "model": "debug-diffusion@1",
    }


def test_content_leads_to_the_bytes(
    client: TestClient, services: Services, settings: Settings
) -> None:
    """The redirect goes to S3, which gives the artifact's bytes to whoever has the link."""
    job_id = submitted(client)["id"]
    made = succeed(services, claimed(services))
    artifact = client.get(f"/v1/jobs/{job_id}").json()["artifacts"][0]
    redirect = client.get(artifact["url"])
    link = redirect.headers["location"]
    assert redirect.status_code == 307
    assert redirect.headers["cache-control"] == "private, no-store"
    assert link.startswith(f"{settings.s3_endpoint}/")
    assert parse_qs(urlsplit(link).query)["X-Amz-Expires"] == [str(settings.link_s)]
    with urllib.request.urlopen(link) as answer:  # noqa: S310 (our own server)
        assert answer.read() == made[UUID(job_id)]
        assert answer.headers["content-type"] == "image/png"


def test_a_link_is_good_for_one_object_only(client: TestClient, services: Services) -> None:
    """A link that was changed to lead to another object is refused by S3."""
    for _ in range(2):
        submitted(client)
    succeed(services, claimed(services))
    one, other = (job["artifacts"][0] for job in client.get("/v1/jobs").json()["jobs"])
    link = client.get(one["url"]).headers["location"]
    assert one["object_key"] in link
    with pytest.raises(HTTPError) as caught:
        urllib.request.urlopen(  # noqa: S310 (our own server)
            link.replace(one["object_key"], other["object_key"])
        )
    with caught.value as error:
        assert error.code == 403


def test_jobs_are_listed_in_pages(client: TestClient) -> None:
    """Following the cursor shows every job once, the oldest first, and then there is no next."""
    ids = [submitted(client)["id"] for _ in range(5)]
    pages: list[list[str]] = []
    after: dict[str, str] = {}
    while True:
        page = client.get("/v1/jobs", params={"limit": 2, **after}).json()
        pages.append([job["id"] for job in page["jobs"]])
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert pages == [ids[:2], ids[2:4], ids[4:]]


def test_jobs_are_filtered(client: TestClient, services: Services, tenant_id: UUID) -> None:
    """The list can be one campaign's, of one status, or both."""
    one = fanned_out(services, tenant_id, campaign([{"id": "1", "product": "mug"}]))
    succeed(services, claimed(services))
    two = fanned_out(services, tenant_id, campaign([{"id": "2", "product": "cup"}]))
    submitted(client)

    def found(**query: str) -> list[tuple[str | None, str]]:
        listed = client.get("/v1/jobs", params=query).json()["jobs"]
        return [(job["recipient"], job["status"]) for job in listed]

    assert found(campaign=str(one)) == [("1", "succeeded")]
    assert found(campaign=str(two)) == [("2", "queued")]
    assert found(status="queued") == [("2", "queued"), (None, "queued")]
    assert found(campaign=str(one), status="queued") == []
    assert found(campaign=NOWHERE) == []


def test_a_queued_job_is_cancelled_at_once(client: TestClient) -> None:
    """Cancel answers with the cancelled job, and doing it twice changes nothing."""
    job_id = submitted(client)["id"]
    first = client.post(f"/v1/jobs/{job_id}/cancel")
    assert (first.status_code, first.json()["status"]) == (200, "cancelled")
    assert client.post(f"/v1/jobs/{job_id}/cancel").json() == first.json()


def test_a_running_job_is_told_to_stop(client: TestClient, services: Services) -> None:
    """The job is still running, flagged, and its success comes too late."""
    job_id = submitted(client)["id"]
    batch = claimed(services)
    job = client.post(f"/v1/jobs/{job_id}/cancel").json()
    assert (job["status"], job["cancel_requested"]) == ("running", True)
    succeed(services, batch)
    job = client.get(f"/v1/jobs/{job_id}").json()
    assert (job["status"], job["artifacts"]) == ("cancelled", [])


def test_a_finished_job_cannot_be_cancelled(client: TestClient, services: Services) -> None:
    """What is done stays done: 409, and the status is named."""
    job_id = submitted(client)["id"]
    succeed(services, claimed(services))
    assert detail(client, "POST", f"/v1/jobs/{job_id}/cancel") == (
        409,
        "not possible: it is succeeded",
    )
    assert client.get(f"/v1/jobs/{job_id}").json()["status"] == "succeeded"


def test_a_job_is_paused_and_resumed(client: TestClient, services: Services) -> None:
    """Each answers with the job; where there is nothing to resume it is a conflict."""
    job_id = submitted(client)["id"]
    paused = client.post(f"/v1/jobs/{job_id}/pause")
    told = (paused.status_code, paused.json()["status"], paused.json()["wait_reason"])
    assert told == (200, "waiting", "pause")
    assert client.post(f"/v1/jobs/{job_id}/pause").json() == paused.json()
    resumed = client.post(f"/v1/jobs/{job_id}/resume")
    assert (resumed.status_code, resumed.json()["status"]) == (202, "queued")
    problem = (409, "not possible: it is queued, not paused")
    assert detail(client, "POST", f"/v1/jobs/{job_id}/resume") == problem
    claimed(services)
    running = client.post(f"/v1/jobs/{job_id}/pause").json()
    assert (running["status"], running["pause_requested"]) == ("running", True)
    assert detail(client, "POST", f"/v1/jobs/{NOWHERE}/pause")[0] == 404
    assert detail(client, "POST", f"/v1/jobs/{NOWHERE}/resume")[0] == 404


def test_a_failed_job_can_be_tried_again(client: TestClient, services: Services) -> None:
    """A failed job says why; retry queues it again, and it can succeed then."""
    job_id = submitted(client)["id"]
    fail(services, claimed(services))
    failed = client.get(f"/v1/jobs/{job_id}").json()
    assert (failed["status"], failed["error"]) == (
        "failed",
        {"code": "out_of_memory", "message": "too big"},
    )
    answer = client.post(f"/v1/jobs/{job_id}/retry")
    again = answer.json()
    assert (answer.status_code, again["status"], again["error"], again["finished_at"]) == (
        202,
        "queued",
        None,
        None,
    )
    succeed(services, claimed(services))
    assert client.get(f"/v1/jobs/{job_id}").json()["status"] == "succeeded"


def test_only_what_failed_or_was_cancelled_is_tried_again(
    client: TestClient, services: Services, tenant_id: UUID
) -> None:
    """Retry of a queued or finished job, or within a cancelled campaign, is a conflict."""
    job_id = submitted(client)["id"]
    assert detail(client, "POST", f"/v1/jobs/{job_id}/retry") == (409, "not possible: it is queued")
    succeed(services, claimed(services))
    assert detail(client, "POST", f"/v1/jobs/{job_id}/retry")[0] == 409
    campaign_id = fanned_out(services, tenant_id, campaign())
    client.post(f"/v1/campaigns/{campaign_id}/cancel")
    cancel.cancel_flagged(services.engine)
    part = client.get(f"/v1/campaigns/{campaign_id}/jobs").json()["jobs"][0]
    assert part["status"] == "cancelled"
    assert detail(client, "POST", f"/v1/jobs/{part['id']}/retry") == (
        409,
        "not possible: it is part of a cancelled campaign",
    )


def test_the_same_idempotency_key_is_the_same_job(client: TestClient, engine: Engine) -> None:
    """A request that is sent again makes nothing new; with another body it is a conflict."""
    headers = {"Idempotency-Key": "order-7"}
    first = client.post("/v1/jobs", json=IMAGE_JOB, headers=headers)
    second = client.post("/v1/jobs", json=IMAGE_JOB, headers=headers)
    assert (second.status_code, second.json()) == (202, first.json())
    other = {**IMAGE_JOB, "request": {"prompt": "a cup"}}
    conflict = client.post("/v1/jobs", json=other, headers=headers)
    assert (conflict.status_code, conflict.headers["content-type"]) == (409, PROBLEM)
    assert rows(engine)["jobs"] == 1


def test_an_idempotency_key_belongs_to_its_tenant(client: TestClient, engine: Engine) -> None:
    """Two tenants that choose the same key do not meet."""
    headers = {"Idempotency-Key": "order-7"}
    mine = client.post("/v1/jobs", json=IMAGE_JOB, headers=headers).json()
    theirs = client.post(
        "/v1/jobs", json=IMAGE_JOB, headers={**headers, **as_tenant(new_key(engine, "other"))}
    ).json()
    assert mine["id"] != theirs["id"]


def test_requests_at_the_same_time_with_one_key(client: TestClient, engine: Engine) -> None:
    """However many arrive together, there is one job, and all are told its id."""
    with ThreadPoolExecutor(8) as threads:
        answers = list(
            threads.map(
                lambda _: client.post(
                    "/v1/jobs", json=IMAGE_JOB, headers={"Idempotency-Key": "order-7"}
                ),
                range(8),
            )
        )
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert rows(engine)["jobs"] == 1


def test_an_idempotency_key_is_not_empty(client: TestClient, engine: Engine) -> None:
    """A header that a client forgot to fill in would make all its jobs one."""
    for key in ("", "k" * 201):
        answer = client.post("/v1/jobs", json=IMAGE_JOB, headers={"Idempotency-Key": key})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "idempotency-key")
    assert rows(engine)["jobs"] == 0


@pytest.mark.parametrize(
    ("change", "errors"),
    [
        ({"kind": "imgae"}, [("kind", "unknown kind 'imgae'; did you mean 'image'?")]),
        ({"kind": None}, [("kind", "Input should be a valid string")]),
        ({"priority": 101}, [("priority", "Input should be less than or equal to 100")]),
        ({"prioritee": 1}, [("prioritee", "unknown key; did you mean 'priority'?")]),
    ],
)
def test_a_bad_submission_creates_nothing(
    client: TestClient, engine: Engine, change: dict[str, Any], errors: list[tuple[str, str]]
) -> None:
    """Each mistake is named by its field, and no table has a row more."""
    refused(client, engine, {**IMAGE_JOB, **change}, errors)


@pytest.mark.parametrize(
    ("change", "errors"),
    [
        (
            {"model": "debug-difusion"},
            [
                (
                    "request.model",
                    "unknown model 'debug-difusion'; did you mean 'debug-diffusion'?",
                )
            ],
        ),
        (
            {"size": "100x96"},
            [
                (
                    "request.size",
                    (
                        "100x96: model 'debug-diffusion' takes sides that are multiples of 8; "
                        "nearest to 100: 96 or 104"
                    ),
                )
            ],
        ),
        (
            {"size": "96x1024"},
            [("request.size", "96x1024: model 'debug-diffusion' takes at most 512 px a side")],
        ),
        (
            {"size": "big"},
            [("request.size", "'big' is not WIDTHxHEIGHT, for example 512x512")],
        ),
        ({"steps": -1}, [("request.steps", "Input should be greater than or equal to 1")]),
        ({"prompt": ""}, [("request.prompt", "String should have at least 1 character")]),
        (
            {"prompt": "a\0b"},
            [("request.prompt", "holds a NUL character, which cannot be stored")],
        ),
        (
            {"seed": 2**53},
            [("request.seed", "Input should be less than or equal to 9007199254740991")],
        ),
        (
            {"stepz": 3, "guidance": -1},
            [
                ("request.guidance", "Input should be greater than or equal to 0"),
                ("request.stepz", "unknown key; did you mean 'steps'?"),
            ],
        ),
    ],
)
def test_a_bad_request_creates_nothing(
    client: TestClient, engine: Engine, change: dict[str, Any], errors: list[tuple[str, str]]
) -> None:
    """The kind's own fields are checked the same way, under `request`."""
    refused(client, engine, {"kind": "image", "request": {"prompt": "a mug", **change}}, errors)


def refused(
    client: TestClient, engine: Engine, body: object, errors: list[tuple[str, str]]
) -> None:
    """The body is answered with these fields and messages, and leaves nothing behind."""
    before = rows(engine)
    answer = client.post("/v1/jobs", json=body)
    problem = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
    assert [(error["field"], error["message"]) for error in problem["errors"]] == errors
    assert problem["detail"] == "\n".join(f"{field}: {message}" for field, message in errors)
    assert rows(engine) == before


def test_a_job_is_accepted_without_a_broker(
    settings: Settings, tenant_id: UUID, engine: Engine
) -> None:
    """Nobody listens where the broker was: the job is safe in SQL, and the client hears so soon."""
    port = ports.choose(["broker"], {})["broker"]
    accepts_soon(settings, engine, f"redis://127.0.0.1:{port}/0")


def test_a_job_is_accepted_while_the_broker_is_silent(
    settings: Settings, tenant_id: UUID, engine: Engine
) -> None:
    """A broker that takes connections and never answers does not hold clients up either."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        accepts_soon(settings, engine, f"redis://127.0.0.1:{listening.getsockname()[1]}/0")


def accepts_soon(settings: Settings, engine: Engine, broker_url: str) -> None:
    """Submitting and retrying are answered with 202 within seconds, and the job is queued."""
    cut_off = settings.model_copy(update={"broker_url": broker_url})
    with served(cut_off, new_key(engine)) as client:
        started_s = time.monotonic()
        job_id = submitted(client)["id"]
        assert time.monotonic() - started_s < ANSWER_LIMIT_S
        client.post(f"/v1/jobs/{job_id}/cancel")
        started_s = time.monotonic()
        answer = client.post(f"/v1/jobs/{job_id}/retry")
        assert time.monotonic() - started_s < ANSWER_LIMIT_S
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")


def test_times_have_a_zone(client: TestClient) -> None:
    """Times are ISO 8601 in UTC."""
    created = datetime.fromisoformat(submitted(client)["created_at"])
    assert created.utcoffset() == timedelta(0)
