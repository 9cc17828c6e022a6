"""Who may see what, and that every error is a problem as RFC 9457 has it."""

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, text
from starlette.testclient import TestClient

from jobs.services import Services
from jobs.settings import Settings
from jobs.standalone import ports
from tests.integration.doors import (
    IMAGE_JOB,
    PROBLEM,
    as_json,
    as_tenant,
    campaign,
    claimed,
    fanned_out,
    new_key,
    rows,
    schedule,
    served,
    strings,
    succeed,
)

NOWHERE = "00000000-0000-7000-8000-000000000000"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def client(settings: Settings, tenant_id: UUID, engine: Engine) -> Iterator[TestClient]:
    """A client of the API with the default tenant's key."""
    with served(settings, new_key(engine)) as serving:
        yield serving


def check(
    client: TestClient, status: int, method: str, path: str, **request: Any
) -> dict[str, Any]:
    """Send a request that must be answered with a whole problem of that status; the problem."""
    answer = client.request(method, path, **request)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    problem: dict[str, Any] = answer.json()
    assert (problem["type"], problem["status"]) == ("about:blank", status)
    assert problem["title"]
    assert problem["detail"]
    return problem


ENDPOINTS = [
    ("POST", "/v1/jobs"),
    ("GET", "/v1/jobs"),
    ("GET", f"/v1/jobs/{NOWHERE}"),
    ("POST", f"/v1/jobs/{NOWHERE}/cancel"),
    ("POST", f"/v1/jobs/{NOWHERE}/retry"),
    ("POST", f"/v1/jobs/{NOWHERE}/pause"),
    ("POST", f"/v1/jobs/{NOWHERE}/resume"),
    ("GET", f"/v1/jobs/{NOWHERE}/events"),
    ("GET", f"/v1/jobs/{NOWHERE}/events/stream"),
    ("GET", f"/v1/jobs/{NOWHERE}/events/1/files/0"),
    ("GET", "/v1/kinds"),
    ("GET", "/v1/models"),
    ("POST", "/v1/models"),
    ("GET", "/v1/models/mugs"),
    ("POST", "/v1/models/mugs/check"),
    ("POST", "/v1/models/mugs/retire"),
    ("GET", "/v1/workers"),
    ("POST", "/v1/campaigns"),
    ("GET", "/v1/campaigns"),
    ("GET", f"/v1/campaigns/{NOWHERE}"),
    ("GET", f"/v1/campaigns/{NOWHERE}/jobs"),
    ("POST", f"/v1/campaigns/{NOWHERE}/cancel"),
    ("GET", f"/v1/artifacts/{NOWHERE}/content"),
    ("POST", "/v1/files/lists/spring.csv"),
    ("POST", "/v1/pictures"),
    ("POST", "/v1/datasets"),
    ("GET", "/v1/datasets"),
    ("GET", "/v1/datasets/mugs"),
    ("DELETE", "/v1/datasets/mugs"),
    ("POST", "/v1/trainings/estimate"),
    ("POST", "/v1/schedules"),
    ("GET", "/v1/schedules"),
    ("GET", f"/v1/schedules/{NOWHERE}"),
    ("PUT", f"/v1/schedules/{NOWHERE}"),
    ("POST", f"/v1/schedules/{NOWHERE}/pause"),
    ("POST", f"/v1/schedules/{NOWHERE}/resume"),
    ("POST", f"/v1/schedules/{NOWHERE}/run-now"),
    ("GET", f"/v1/schedules/{NOWHERE}/next"),
    ("GET", f"/v1/schedules/{NOWHERE}/history"),
    ("DELETE", f"/v1/schedules/{NOWHERE}"),
]


def test_the_list_of_endpoints_is_complete(client: TestClient) -> None:
    """What is tested below for every endpoint is tested for all that the API says it has."""
    described = client.get("/openapi.json").json()["paths"]
    offered = {(method.upper(), path) for path, item in described.items() for method in item}
    named = {
        (method, re.sub(r"/(jobs|campaigns|artifacts|schedules)/0[^/]*", r"/\1/{}", path))
        for method, path in [
            (method, re.sub("lists/spring.csv|mugs|(?<=/)[01](?=/|$)", "{}", path))
            for method, path in ENDPOINTS
        ]
    }
    assert {(method, re.sub(r"{\w+}", "{}", path)) for method, path in offered} == named


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
def test_nobody_gets_in_without_a_good_key(
    client: TestClient, engine: Engine, method: str, path: str
) -> None:
    """No key, a wrong one, or another scheme: 401, and how to send one."""
    key = client.headers["authorization"].removeprefix("Bearer ")
    before = rows(engine)
    for header in ("", "Bearer", f"Bearer {key}x", f"Bearer {key[:-1]}", f"Basic {key}", key):
        for body in (IMAGE_JOB, campaign()):
            headers = {"Authorization": header}
            problem = check(client, 401, method, path, headers=headers, json=body)
            assert problem["detail"] == "send your API key as `Authorization: Bearer pw_...`"
    answer = client.request(method, path, headers={"Authorization": ""})
    assert answer.headers["www-authenticate"] == "Bearer"
    assert rows(engine) == before


def test_a_revoked_key_is_no_key(client: TestClient, engine: Engine) -> None:
    """Revoking takes effect with the next request, and for that key alone."""
    other = new_key(engine)
    assert client.get("/v1/jobs").status_code == 200
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE api_keys SET revoked_at = now() WHERE key_sha256 <> :other"),
            {"other": hashlib.sha256(other.encode()).hexdigest()},
        )
    check(client, 401, "GET", "/v1/jobs")
    assert client.get("/v1/jobs", headers=as_tenant(other)).status_code == 200


def test_keys_are_stored_as_digests(engine: Engine) -> None:
    """The database has nothing of a key but its SHA-256."""
    key = new_key(engine, "acme")
    with engine.begin() as connection:
        stored = connection.execute(text("SELECT row_to_json(api_keys)::text FROM api_keys"))
        found = stored.scalars().all()
    assert len(found) == 1
    assert hashlib.sha256(key.encode()).hexdigest() in found[0]
    assert key not in found[0]
    assert key.removeprefix("pw_")[:8] not in found[0]


def test_what_belongs_to_another_tenant_does_not_exist(
    client: TestClient, services: Services, tenant_id: UUID
) -> None:
    """Every endpoint with an id answers another tenant as if nobody had such a thing."""
    campaign_id = fanned_out(services, tenant_id, campaign())
    succeed(services, claimed(services))
    job = client.get("/v1/jobs").json()["jobs"][0]
    ids = {
        "jobs": job["id"],
        "campaigns": str(campaign_id),
        "artifacts": job["artifacts"][0]["id"],
        "schedules": client.post("/v1/schedules", json=schedule()).json()["id"],
    }
    theirs = as_tenant(new_key(services.engine, "other"))
    tried = 0
    for method, path in ENDPOINTS:
        if NOWHERE not in path:
            continue
        real = path.replace(NOWHERE, ids[path.split("/")[2]])
        hidden = check(client, 404, method, real, headers=theirs, json=schedule())
        missing = check(client, 404, method, path, headers=theirs, json=schedule())
        assert hidden["detail"].replace(real.split("/")[3], NOWHERE) == missing["detail"]
        tried += 1
    assert tried == 20
    assert client.get(f"/v1/campaigns/{campaign_id}").json()["status"] == "finished"
    assert client.get(job["artifacts"][0]["url"]).status_code == 307
    assert client.get(f"/v1/schedules/{ids['schedules']}").json()["paused_at"] is None


def test_lists_show_nothing_of_another_tenant(
    client: TestClient, services: Services, tenant_id: UUID
) -> None:
    """Lists, filters and cursors of another tenant's ids lead to nothing."""
    campaign_id = fanned_out(services, tenant_id, campaign())
    job_id = client.get("/v1/jobs").json()["jobs"][0]["id"]
    theirs = as_tenant(new_key(services.engine, "other"))
    own = client.post("/v1/jobs", json=IMAGE_JOB, headers=theirs).json()["id"]

    def listed(path: str, **query: str) -> Any:
        return client.get(path, params=query, headers=theirs).json()

    assert listed("/v1/campaigns") == {"campaigns": [], "next": None}
    assert listed("/v1/jobs", campaign=str(campaign_id)) == {"jobs": [], "next": None}
    assert [job["id"] for job in listed("/v1/jobs")["jobs"]] == [own]
    assert [job["id"] for job in listed("/v1/jobs", after=job_id)["jobs"]] == [own]
    assert listed("/v1/campaigns", before=own)["campaigns"] == []
    assert client.post("/v1/schedules", json=schedule()).status_code == 201
    assert listed("/v1/schedules") == {"schedules": []}


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nothing", "/v1/jobs/x/y", "/v2/jobs"])
def test_an_unknown_path(client: TestClient, path: str) -> None:
    """There is nothing there: 404."""
    check(client, 404, "GET", path)


def test_a_method_that_a_path_does_not_have(client: TestClient) -> None:
    """405 says which methods there are."""
    check(client, 405, "DELETE", "/v1/kinds")
    answer = client.put(f"/v1/jobs/{NOWHERE}/cancel")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(("method", "path"), [item for item in ENDPOINTS if NOWHERE in item[1]])
def test_a_path_with_a_bad_id(client: TestClient, method: str, path: str) -> None:
    """An id that is no UUID is named, and does not reach SQL."""
    problem = check(client, 422, method, path.replace(NOWHERE, "x'--"), json=schedule())
    assert re.fullmatch(r"(job|campaign|artifact|schedule)_id", problem["errors"][0]["field"])
    assert "valid UUID" in problem["detail"]


@pytest.mark.parametrize(
    ("path", "query", "field"),
    [
        ("/v1/jobs", "limit=0", "limit"),
        ("/v1/jobs", "limit=1001", "limit"),
        ("/v1/jobs", "status=done", "status"),
        ("/v1/jobs", "campaign=7", "campaign"),
        ("/v1/jobs", "after=7", "after"),
        ("/v1/campaigns", "before=7", "before"),
        ("/v1/campaigns", "limit=201", "limit"),
    ],
)
def test_a_bad_query(client: TestClient, path: str, query: str, field: str) -> None:
    """A parameter that cannot be used is named."""
    problem = check(client, 422, "GET", f"{path}?{query}")
    assert [error["field"] for error in problem["errors"]] == [field]


POSTS = ["/v1/jobs", "/v1/campaigns", "/v1/schedules"]


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    ("body", "line", "message"),
    [
        (b"", 1, "is not JSON: Expecting value at character 1"),
        (b'{\n "kind": image}', 2, "is not JSON: Expecting value at character 10"),
        (b'{"name": 1, "name": 2}', None, "key 'name' is given twice"),
        (b"[" * 100_000, None, "is nested too deeply"),
        (b'{\n"kind": "\xff"}', 2, "byte 0xff is not UTF-8; save the file as UTF-8"),
    ],
)
def test_malformed_json(
    client: TestClient, engine: Engine, *, path: str, body: bytes, line: int | None, message: str
) -> None:
    """What is not JSON is refused with the line where reading stopped."""
    problem = check(client, 422, "POST", path, content=body, headers=JSON)
    expected = {"message": message, "file": "body", "line": line}
    assert problem["errors"] == [{key: value for key, value in expected.items() if value}]
    assert rows(engine)["jobs"] + rows(engine)["campaigns"] == 0


@pytest.mark.parametrize("path", POSTS)
def test_json_that_is_no_object(client: TestClient, path: str) -> None:
    """A list, a string or null is not a request, and it is said what would be."""
    for body in (b"[]", b'"x"', b"null"):
        assert "must be" in check(client, 422, "POST", path, content=body, headers=JSON)["detail"]


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_content_type_that_is_not_taken(client: TestClient, path: str, media_type: str) -> None:
    """JSON that is not said to be JSON is not read: 415 says what to send."""
    headers = {"Content-Type": media_type}
    body = as_json(IMAGE_JOB if path == "/v1/jobs" else campaign())
    problem = check(client, 415, "POST", path, content=body, headers=headers)
    assert "application/json" in problem["detail"]


def test_a_media_type_may_have_parameters(client: TestClient) -> None:
    """JSON with a charset, in whatever case, is JSON."""
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert client.post("/v1/jobs", content=as_json(IMAGE_JOB), headers=headers).status_code == 202


@pytest.mark.parametrize("path", POSTS)
def test_a_body_that_is_too_large(client: TestClient, engine: Engine, path: str) -> None:
    """More than 32 MiB of JSON is refused, with or without a length: 413."""
    mebibyte = b" " * 1024 * 1024
    check(client, 413, "POST", path, content=mebibyte * 33, headers=JSON)
    check(client, 413, "POST", path, content=(mebibyte for _ in range(33)), headers=JSON)
    assert rows(engine)["jobs"] + rows(engine)["campaigns"] == 0


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=b", b"--c\r\n\r\n"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="campaign"\r\n\r\n'
            + b"x" * (1024 * 1024 + 1)
            + b"\r\n--b--\r\n",
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\nx\r\n' * 3 + b"--b--\r\n",
        ),
    ],
)
def test_multipart_that_cannot_be_read(client: TestClient, content_type: str, body: bytes) -> None:
    """No boundary, another one, a part that is too large, or too many: 400."""
    headers = {"Content-Type": content_type}
    check(client, 400, "POST", "/v1/campaigns", content=body, headers=headers)


def test_a_key_that_is_not_text(client: TestClient) -> None:
    """Half of a surrogate pair can be named in the answer although UTF-8 cannot hold it."""
    given = campaign(creatives=[{"name": "hero", "prompt": "x", "\ud800": 1}])
    problem = check(client, 422, "POST", "/v1/campaigns", content=as_json(given), headers=JSON)
    assert problem["errors"][0]["field"] == "creatives[0].\ud800"


def test_the_database_is_down(settings: Settings, tenant_id: UUID, engine: Engine) -> None:
    """Every endpoint answers 503 and when to come back, and nothing of the connection."""
    port = ports.choose(["database"], {})["database"]
    url = f"postgresql+psycopg://somebody:hidden@127.0.0.1:{port}/presswork"
    with served(settings.model_copy(update={"database_url": url}), new_key(engine)) as client:
        for method, path in ENDPOINTS:
            problem = check(client, 503, method, path, json=IMAGE_JOB)
            assert "hidden" not in json.dumps(problem)
        assert client.get("/v1/jobs").headers["retry-after"] == "5"
        assert client.get("/healthz").status_code == 200


def test_a_database_that_was_restarted(client: TestClient, engine: Engine) -> None:
    """Connections that broke while nobody used them cost the next request nothing."""
    assert client.get("/v1/jobs").status_code == 200
    with engine.begin() as connection:
        ended = connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'presswork api'"
            )
        ).scalars()
        assert True in set(ended)
    assert client.get("/v1/jobs").status_code == 200


FAILING = """
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'shutting down' USING ERRCODE = '57P01'; END $$;
CREATE TRIGGER fail BEFORE INSERT ON jobs EXECUTE FUNCTION fail();
"""


def test_a_database_that_gives_up_in_the_middle(
    client: TestClient, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """503 while a job is stored: the log says why, and nothing of what was sent."""
    with engine.begin() as connection:
        connection.execute(text(FAILING))
    try:
        headers = {"Idempotency-Key": "for-ada@example.org"}
        check(client, 503, "POST", "/v1/jobs", json=IMAGE_JOB, headers=headers)
    finally:
        with engine.begin() as connection:
            connection.execute(text("DROP FUNCTION fail CASCADE"))
    assert "shutting down" in caplog.text
    assert "ada" not in caplog.text
    assert rows(engine)["jobs"] == 0


def test_a_bug_is_a_problem_too(settings: Settings, tenant_id: UUID, engine: Engine) -> None:
    """A table that is missing is not "try again": 500, without what went wrong inside."""
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE api_keys RENAME TO hidden"))
    try:
        with served(settings, "pw_any") as client:
            problem = check(client, 500, "GET", "/v1/jobs")
    finally:
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE hidden RENAME TO api_keys"))
    assert problem["detail"] == "an unexpected error; it was logged"


def test_the_documentation_is_served(client: TestClient) -> None:
    """The page at /docs, which needs neither a key nor the internet, shows /openapi.json."""
    page = client.get("/docs", headers={"Authorization": ""})
    assert page.headers["content-type"].startswith("text/html")
    assert "/openapi.json" in page.text
    sources = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert sources
    assert all(client.get(source).status_code == 200 for source in sources)
    assert not any("//" in source for source in sources)
    assert client.get("/openapi.json", headers={"Authorization": ""}).status_code == 200


def test_references_in_the_description_lead_somewhere(client: TestClient) -> None:
    """Every $ref is a pointer that can be followed from the root of the document."""
    document = client.get("/openapi.json").json()
    found = {text for text in strings(document) if text.startswith("#/")}
    assert found
    for reference in found:
        target = document
        for part in reference.removeprefix("#/").split("/"):
            target = target[part.replace("~1", "/").replace("~0", "~")]


def test_the_description_has_every_body(client: TestClient) -> None:
    """Whoever generates a client finds the request's schema at both POST endpoints."""
    paths = client.get("/openapi.json").json()["paths"]
    job = paths["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(job["properties"]) == {"kind", "request", "priority", "use"}
    content = paths["/v1/campaigns"]["post"]["requestBody"]["content"]
    assert set(content["application/json"]["schema"]["properties"]) == {
        "name",
        "model",
        "use",
        "recipients",
        "creatives",
        "deadline",
    }
    assert content["multipart/form-data"]["schema"]["required"] == ["campaign", "recipients"]
