"""Campaigns over HTTP: as JSON or with a file, followed to the end, or refused as a whole."""

import json
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from jobs.campaigns.creatives import Creative, render
from jobs.kinds.image import ImageRequest
from jobs.services import Services
from jobs.settings import Settings
from storage.ledger import cancel, fanout
from storage.models import BUILT_IN
from tests.integration.doors import (
    PROBLEM,
    as_json,
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
from tests.integration.ledger_cases import value

YAML = """\
name: Spring
recipients:
  id: id
creatives:
  - name: hero
    prompt: "{{ product }} on {{ colour }}"
    size: 64x64
    steps: 2
"""
CSV = b"id,product,colour\n1,mug,blue\n2,cup,red\n"


@pytest.fixture
def client(settings: Settings, tenant_id: UUID, engine: Engine) -> Iterator[TestClient]:
    """A client of the API with the default tenant's key."""
    with served(settings, new_key(engine)) as serving:
        yield serving


def upload(
    client: TestClient,
    recipients: bytes = CSV,
    *,
    text: str = YAML,
    name: str = "r.csv",
    headers: Mapping[str, str] | None = None,
) -> tuple[int, Any]:
    """Status and answer for a campaign whose recipients are uploaded."""
    answer = client.post(
        "/v1/campaigns",
        data={"campaign": text},
        files={"recipients": (name, recipients)},
        headers=headers,
    )
    return answer.status_code, answer.json()


def test_the_commands_file_can_be_uploaded_as_it_is(client: TestClient, engine: Engine) -> None:
    """The name that a campaign gives its recipients' file is not looked up on the server."""
    text = YAML.replace("  id: id\n", "  id: id\n  file: /etc/passwd\n")
    status, _ = upload(client, text=text)
    assert status == 202
    assert rows(engine)["recipients"] == 2


def test_a_campaign_with_inline_recipients(client: TestClient, services: Services) -> None:
    """JSON is answered with 202 and a campaign that becomes a job per recipient and creative."""
    given = campaign([{"id": 1, "product": "mug"}, {"id": "zwei", "product": "Tasse"}])
    answer = client.post("/v1/campaigns", json=given)
    accepted = answer.json()
    assert answer.status_code == 202
    assert (accepted["name"], accepted["status"], accepted["recipients"], accepted["jobs"]) == (
        "Spring",
        "compiling",
        2,
        0,
    )
    assert [str(done.campaign_id) for done in fanout.fan_out(services.engine)] == [accepted["id"]]
    running = client.get(f"/v1/campaigns/{accepted['id']}").json()
    assert (running["status"], running["jobs"], running["counts"]["queued"]) == ("running", 2, 2)
    assert running["compiled_at"] >= running["created_at"]
    listed = client.get(f"/v1/campaigns/{accepted['id']}/jobs").json()["jobs"]
    assert [(job["recipient"], job["creative"], job["status"]) for job in listed] == [
        ("1", "hero", "queued"),
        ("zwei", "hero", "queued"),
    ]


def test_a_campaign_with_a_csv_file(client: TestClient, services: Services) -> None:
    """Multipart with YAML and a CSV file, with a byte order mark as Excel writes it."""
    status, accepted = upload(client, b"\xef\xbb\xbf" + CSV)
    assert (status, accepted["recipients"]) == (202, 2)
    list(fanout.fan_out(services.engine))
    assert prompts(services) == ["mug on blue", "cup on red"]


def test_a_campaign_with_a_jsonl_file(client: TestClient, services: Services) -> None:
    """JSON Lines is told by the file's name, and the campaign may be JSON, sent as a file."""
    given = {**campaign(), "recipients": {"id": "id"}}
    answer = client.post(
        "/v1/campaigns",
        files={
            "campaign": ("spring.json", json.dumps(given).encode()),
            "recipients": ("r.jsonl", b'{"id": 1, "product": "mug"}\n'),
        },
    )
    assert (answer.status_code, answer.json()["recipients"]) == (202, 1)
    list(fanout.fan_out(services.engine))
    assert prompts(services) == ["a mug"]


def prompts(services: Services) -> list[str]:
    """What a worker is asked for when it claims the queued jobs of a campaign."""
    found = []
    for job in claimed(services).jobs:
        assert job.part
        creative = Creative.from_parameters(job.part.creative, job.kind, job.part.parameters)
        request = render(creative, job.part.row, job.part.recipient_key, job.id)
        assert isinstance(request, ImageRequest)
        found.append(request.prompt)
    return found


def test_recipient_text_is_never_a_template(client: TestClient, services: Services) -> None:
    """Text that looks like Liquid comes out as it went in, even where its value would fail."""
    texts = ["{{ 7 | times: 6 }}", "{% include 'x' %}", "{{ nothing", "{{ id }}{% raw %}"]
    given = campaign([{"id": str(n), "product": text} for n, text in enumerate(texts)])
    assert client.post("/v1/campaigns", json=given).status_code == 202
    list(fanout.fan_out(services.engine))
    assert prompts(services) == [f"a {text}" for text in texts]


def test_how_far_a_campaign_is(client: TestClient, services: Services, tenant_id: UUID) -> None:
    """Counts per status add up to the jobs; there is a rate while pictures come in."""
    given = campaign([{"id": str(n), "product": "mug"} for n in range(4)])
    path = f"/v1/campaigns/{fanned_out(services, tenant_id, given)}"

    def state() -> Any:
        return client.get(path).json()

    fresh = state()
    assert (fresh["rate"], fresh["left_s"], fresh["done"]) == (None, None, 0)
    succeed(services, claimed(services, size=1))
    fail(services, claimed(services, size=1))
    batch = claimed(services, size=1)
    half = state()
    assert half["counts"] == {
        "waiting": 0,
        "queued": 1,
        "running": 1,
        "succeeded": 1,
        "failed": 1,
        "cancelled": 0,
        "expired": 0,
    }
    assert (half["status"], half["done"], half["jobs"]) == ("running", 2, 4)
    assert 0 < half["rate"] <= 1
    assert half["left_s"] == pytest.approx(2 / half["rate"])
    succeed(services, batch)
    succeed(services, claimed(services))
    over = state()
    assert (over["status"], over["done"]) == ("finished", 4)
    assert (over["rate"], over["left_s"]) == (None, None)


def test_a_campaigns_jobs_in_pages(client: TestClient, services: Services, tenant_id: UUID) -> None:
    """Its jobs come in the order of its recipients, filtered by status, page after page."""
    given = campaign([{"id": f"r{n}", "product": "mug"} for n in range(5)])
    path = f"/v1/campaigns/{fanned_out(services, tenant_id, given)}/jobs"
    succeed(services, claimed(services, size=2))
    first = client.get(path, params={"status": "queued", "limit": 2}).json()
    assert [job["recipient"] for job in first["jobs"]] == ["r2", "r3"]
    query = {"status": "queued", "limit": 2, "after": first["next"]}
    second = client.get(path, params=query).json()
    assert ([job["recipient"] for job in second["jobs"]], second["next"]) == (["r4"], None)
    done = client.get(path, params={"status": "succeeded"}).json()["jobs"]
    assert [(job["recipient"], len(job["artifacts"])) for job in done] == [("r0", 1), ("r1", 1)]


def test_campaigns_are_listed_newest_first(client: TestClient) -> None:
    """Following the cursor shows every campaign once."""
    for n in range(3):
        assert client.post("/v1/campaigns", json=campaign(name=f"c{n}")).status_code == 202
    first = client.get("/v1/campaigns", params={"limit": 2}).json()
    second = client.get("/v1/campaigns", params={"limit": 2, "before": first["next"]}).json()
    names = [found["name"] for page in (first, second) for found in page["campaigns"]]
    assert (names, second["next"]) == (["c2", "c1", "c0"], None)


def test_a_cancelled_campaign_stops(
    client: TestClient, services: Services, tenant_id: UUID
) -> None:
    """Nothing of it starts any more, what runs is told to stop, and what is done stays."""
    given = campaign([{"id": str(n), "product": "mug"} for n in range(3)])
    campaign_id = fanned_out(services, tenant_id, given)
    succeed(services, claimed(services, size=1))
    batch = claimed(services, size=1)
    answer = client.post(f"/v1/campaigns/{campaign_id}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    cancel.cancel_flagged(services.engine)
    succeed(services, batch)
    counts = client.get(f"/v1/campaigns/{campaign_id}").json()["counts"]
    assert {status: n for status, n in counts.items() if n} == {"succeeded": 1, "cancelled": 2}


def test_a_finished_campaign_stays_finished(
    client: TestClient, services: Services, tenant_id: UUID
) -> None:
    """Cancel comes too late: 409, and nothing about the campaign changes."""
    path = f"/v1/campaigns/{fanned_out(services, tenant_id, campaign())}"
    succeed(services, claimed(services))
    finished = client.get(path).json()
    answer = client.post(f"{path}/cancel")
    assert (answer.status_code, answer.headers["content-type"]) == (409, PROBLEM)
    assert answer.json()["detail"] == "not possible: it is finished"
    assert client.get(path).json() == finished


def test_a_campaign_cancelled_before_its_jobs_exist_has_none(
    client: TestClient, services: Services
) -> None:
    """Cancel wins over a fan-out that has not begun."""
    accepted = client.post("/v1/campaigns", json=campaign()).json()
    client.post(f"/v1/campaigns/{accepted['id']}/cancel")
    assert list(fanout.fan_out(services.engine)) == []
    assert client.get(f"/v1/campaigns/{accepted['id']}/jobs").json()["jobs"] == []


def test_the_same_idempotency_key_is_the_same_campaign(client: TestClient, engine: Engine) -> None:
    """Sent again, JSON gives the same campaign; with other recipients it is a conflict."""
    headers = {"Idempotency-Key": "spring"}
    first = client.post("/v1/campaigns", json=campaign(), headers=headers)
    second = client.post("/v1/campaigns", json=campaign(), headers=headers)
    assert (second.status_code, second.json()) == (202, first.json())
    other = campaign([{"id": "2", "product": "mug"}])
    conflict = client.post("/v1/campaigns", json=other, headers=headers)
    assert (conflict.status_code, conflict.headers["content-type"]) == (409, PROBLEM)
    theirs = client.post(
        "/v1/campaigns",
        json=campaign(),
        headers={**headers, **as_tenant(new_key(engine, "other"))},
    )
    assert theirs.json()["id"] != first.json()["id"]
    assert (rows(engine)["campaigns"], rows(engine)["recipients"]) == (2, 2)


def test_an_idempotency_key_outlives_an_upgrade(client: TestClient, engine: Engine) -> None:
    """What a key stands for is the same in every release, or a retry would become a conflict."""
    client.post("/v1/campaigns", json=campaign(), headers={"Idempotency-Key": "spring"})
    stored = value(engine, "SELECT request_sha256 FROM campaigns")
    assert stored == "b034c9038a7cef9db640ea66a2aa72db11d176ea82e1da0fe21fdd4f6459e00e"


def test_an_uploaded_file_is_part_of_what_the_key_stands_for(
    client: TestClient, engine: Engine
) -> None:
    """The same campaign with a file that differs in one byte is a conflict."""
    headers = {"Idempotency-Key": "spring"}
    _, first = upload(client, headers=headers)
    assert upload(client, headers=headers) == (202, first)
    assert upload(client, CSV.replace(b"red", b"rad"), headers=headers)[0] == 409
    assert (rows(engine)["campaigns"], rows(engine)["recipients"]) == (1, 2)


def place(error: Mapping[str, Any]) -> tuple[str | None, int | None, str | None]:
    """Where a problem says it is."""
    return error.get("file"), error.get("line"), error.get("field")


@pytest.mark.parametrize(
    ("old", "new", "where", "message"),
    [
        (
            "colour }}",
            "color }}",
            ("campaign", 6, "creatives[0].prompt"),
            "column 'color' is missing in r.csv; its columns: id, product, colour",
        ),
        (
            '}}"',
            '"',
            ("campaign", 6, "creatives[0].prompt"),
            "template line 1, character 18: expected '}}', found end of file",
        ),
        (
            "    size: 64x64\n",
            "    size: 64x60\n",
            ("campaign", 7, "creatives[0].size"),
            (
                "64x60: model 'debug-diffusion' takes sides that are multiples of 8; "
                "nearest to 60: 56 or 64"
            ),
        ),
        (
            "    steps: 2\n",
            "    steps: -2\n",
            ("campaign", 8, "creatives[0].steps"),
            "Input should be greater than or equal to 1",
        ),
        (
            "    steps: 2\n",
            "    stesp: 2\n",
            ("campaign", 8, "creatives[0].stesp"),
            "unknown key; did you mean 'steps'?",
        ),
        (
            "    steps: 2\n",
            "    model: debug-difusion\n",
            ("campaign", 8, "creatives[0].model"),
            "unknown model 'debug-difusion'; did you mean 'debug-diffusion'?",
        ),
        (
            "    steps: 2\n",
            "    kind: imgae\n",
            ("campaign", 8, "creatives[0].kind"),
            "unknown kind 'imgae'; did you mean 'image'?",
        ),
        (
            "  id: id\n",
            "  id: id\n  rows: []\n",
            ("campaign", 4, "recipients.rows"),
            "give rows or upload a file, not both",
        ),
        (
            "name: Spring",
            "name: [",
            ("campaign", 3, None),
            (
                "is not valid YAML: expected ',' or ']', but got ':' "
                "(while parsing a flow sequence that starts on line 1)"
            ),
        ),
    ],
)
def test_a_bad_campaign_creates_nothing(
    client: TestClient,
    engine: Engine,
    *,
    old: str,
    new: str,
    where: tuple[str, int, str],
    message: str,
) -> None:
    """Each mistake is named with the campaign's line and field, and no table has a row more."""
    assert old in YAML
    before = rows(engine)
    status, problem = upload(client, text=YAML.replace(old, new))
    assert status == 422
    assert [(place(error), error["message"]) for error in problem["errors"]] == [(where, message)]
    assert rows(engine) == before


@pytest.mark.parametrize(
    ("content", "where", "message"),
    [
        (b"", (None, None), "is empty; the first line must name the columns"),
        (b"id,product,colour\n", (None, None), "has a header but no recipients"),
        (
            b"id,product,colour\n1,mug,blue\n2,caf\xe9,red\n",
            (3, None),
            "byte 0xe9 is not UTF-8; save the file as UTF-8",
        ),
        (
            CSV.decode().encode("utf-16"),
            (1, None),
            "is UTF-16; save it as UTF-8 (in Excel: 'CSV UTF-8')",
        ),
        (
            CSV + b"1,pot,green\n",
            (4, "id"),
            "recipient id '1' stands on lines 2, 4; each recipient must occur once",
        ),
        (CSV + b",pot,green\n", (4, "id"), "a recipient's id must not be empty"),
        (
            CSV + b"3,pot\n",
            (4, None),
            (
                "has 2 fields where the header has 3; "
                "quote a field that holds the delimiter or a line end"
            ),
        ),
        (
            b"nr,product,colour\n1,mug,blue\n",
            (1, None),
            "there is no column 'id', which recipients.id names; its columns: nr, product, colour",
        ),
        (
            CSV + b"3," + b"x" * 4000 + b",green\n",
            (4, "creatives[0].prompt"),
            "after rendering: String should have at most 4000 characters",
        ),
    ],
)
def test_a_bad_file_creates_nothing(
    client: TestClient,
    engine: Engine,
    content: bytes,
    where: tuple[int | None, str | None],
    message: str,
) -> None:
    """Each mistake is named with the file's name and line, and no table has a row more."""
    before = rows(engine)
    status, problem = upload(client, content)
    assert status == 422
    assert [(place(error), error["message"]) for error in problem["errors"]] == [
        (("r.csv", *where), message)
    ]
    line = ":".join(["r.csv", *([str(where[0])] if where[0] else [])])
    assert problem["detail"].startswith(f"{line}: ")
    assert rows(engine) == before


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        (
            {"recipients": {"id": "id", "rows": []}},
            "recipients.rows",
            "has no recipients",
        ),
        (
            {"recipients": {"id": "id"}},
            "recipients",
            "give the recipients as rows, name a file in the bucket, or upload one",
        ),
        (
            {"recipients": {"id": "id", "file": "/etc/passwd"}},
            "recipients.file",
            "names a file on the server; upload it instead",
        ),
        (
            {"recipients": {"id": "id", "rows": [{"id": "a"}]}},
            "creatives[0].prompt",
            "column 'product' is missing, in recipients.rows[0]",
        ),
        (
            {
                "recipients": {
                    "id": "id",
                    "rows": [{"id": "a", "product": 1}, {"id": "a", "product": 2}],
                }
            },
            "id",
            "recipient id 'a' stands on rows 1, 2; each recipient must occur once",
        ),
        (
            {"recipients": {"id": "id", "rows": [{"id": "\ud800", "product": 1}]}},
            "recipients.rows[0].id",
            "holds half of a surrogate pair, which is not text",
        ),
        (
            {"recipients": {"id": "id", "rows": [{"id": "a", "product": float("inf")}]}},
            "recipients.rows[0].product",
            "inf is not a JSON number",
        ),
        ({"model": "none"}, "model", f"unknown model 'none'; known: {', '.join(BUILT_IN)}"),
        ({"nmae": 1}, "nmae", "unknown key; did you mean 'name'?"),
    ],
)
def test_bad_json_creates_nothing(
    client: TestClient, engine: Engine, change: dict[str, Any], field: str, message: str
) -> None:
    """Inline recipients have no file and no lines: mistakes are named by their field."""
    before = rows(engine)
    answer = client.post(
        "/v1/campaigns",
        content=as_json({**campaign(), **change}),
        headers={"Content-Type": "application/json"},
    )
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
    assert answer.json()["errors"] == [{"message": message, "field": field}]
    assert rows(engine) == before


def test_all_mistakes_are_named_at_once(client: TestClient, engine: Engine) -> None:
    """Many bad rows are one answer, which says when the check has stopped."""
    lines = "".join(json.dumps({"id": n}) + "\n" for n in range(50))
    status, problem = upload(client, lines.encode(), name="r.jsonl")
    assert (status, len(problem["errors"])) == (422, 21)
    assert place(problem["errors"][19]) == ("r.jsonl", 20, "creatives[0].prompt")
    assert problem["errors"][20]["message"] == "there may be more problems; the check stopped here"
    assert rows(engine)["recipients"] == 0


@pytest.mark.parametrize(
    ("parts", "field", "message"),
    [
        ({"recipients": ("r.csv", CSV)}, "campaign", "is required"),
        ({"campaign": ("c.yaml", YAML.encode())}, "recipients", "is required, as a file"),
        (
            {"campaign": ("c.yaml", b"#" * (1024 * 1024 + 1)), "recipients": ("r.csv", CSV)},
            "campaign",
            "is larger than 1 MiB",
        ),
        (
            {"campaign": ("c.yaml", YAML.encode()), "recipients": ("r.xlsx", CSV)},
            "recipients.format",
            "'r.xlsx' ends in neither .csv nor .jsonl; say which it is: csv or jsonl",
        ),
    ],
)
def test_parts_that_are_missing_or_of_another_sort(
    client: TestClient,
    engine: Engine,
    parts: dict[str, tuple[str, bytes]],
    field: str,
    message: str,
) -> None:
    """Multipart has a part `campaign` and a file `recipients`, and nothing is guessed."""
    before = rows(engine)
    answer = client.post("/v1/campaigns", files=parts)
    problem = answer.json()["errors"][0]
    assert (answer.status_code, problem["field"], problem["message"]) == (422, field, message)
    assert rows(engine) == before


def test_errors_name_the_uploaded_campaign_file(client: TestClient) -> None:
    """A campaign that comes as a file is called by the file's own name."""
    answer = client.post(
        "/v1/campaigns",
        files={
            "campaign": ("spring.yaml", YAML.replace("steps", "stesp").encode()),
            "recipients": ("r.csv", CSV),
        },
    )
    assert answer.json()["detail"] == (
        "spring.yaml:8: creatives[0].stesp: unknown key; did you mean 'steps'?"
    )


def test_a_campaign_that_nobody_submitted(client: TestClient) -> None:
    """An id that leads nowhere is a 404 at every path."""
    for method, path in (("GET", ""), ("GET", "/jobs"), ("POST", "/cancel")):
        assert client.request(method, f"/v1/campaigns/{uuid4()}{path}").status_code == 404
