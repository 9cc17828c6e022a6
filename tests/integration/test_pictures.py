"""Pictures from the door to the family, within one tenant."""

import io
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from PIL import Image
from sqlalchemy import Engine, text
from starlette.testclient import TestClient
from typer.testing import CliRunner

from jobs import files, submissions
from jobs.api import pictures
from jobs.campaigns.file import from_mapping
from jobs.campaigns.keys import object_key
from jobs.cli.main import app
from jobs.kinds import samples
from jobs.pictures import cleaning, storing
from jobs.pictures.formats import MAX_BYTES
from jobs.problems import BadInputError
from jobs.services import Services
from jobs.standalone import Servers, ports
from jobs.submissions import JobSubmission
from storage.ledger import fanout
from storage.ledger.needs import NeedArtifact
from storage.objects import ObjectStore, picture_key, sha256_hex
from tests.integration.batches import jobs
from tests.integration.doors import PROBLEM, as_tenant, new_key, picture, served
from tests.integration.ledger_cases import take
from tests.integration.tinting import add_tint
from workers.family import Item
from workers.inputs import Inputs
from workers.items import items_of


@pytest.fixture
def tint(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind that starts from files."""
    add_tint(engine, tmp_path, monkeypatch)


@pytest.fixture
def client(services: Services, tenant_id: UUID) -> Iterator[TestClient]:
    """The API, for the default tenant."""
    with served(services.settings, new_key(services.engine)) as opened:
        yield opened


def jpeg() -> bytes:
    """A picture as a camera writes it."""
    written = io.BytesIO()
    Image.new("RGB", (12, 8), "red").save(written, "JPEG")
    return written.getvalue()


def submitted(services: Services, tenant_id: UUID, **request: object) -> UUID:
    """A job of the test's kind."""
    submission = JobSubmission(kind="tint", request=request)
    return submissions.submit_job(services, tenant_id, submission)


def refused(services: Services, tenant_id: UUID, **request: object) -> str:
    """Why there is no such job."""
    with pytest.raises(BadInputError) as error:
        submitted(services, tenant_id, **request)
    return str(error.value)


def stored_requests(engine: Engine) -> list[Any]:
    """The requests of all jobs, oldest first."""
    with engine.begin() as connection:
        return list(connection.execute(text("SELECT request FROM jobs ORDER BY id")).scalars())


def test_an_upload(client: TestClient, services: Services, tenant_id: UUID) -> None:
    """It is stored as a PNG of ours under its digest, whichever way it came, once."""
    answer = client.post("/v1/pictures", content=jpeg(), headers={"Content-Type": "image/jpeg"})
    assert answer.status_code == 201
    body = answer.json()
    assert (body["width"], body["height"]) == (12, 8)
    sha256 = body["picture"].removeprefix("picture:")
    png = services.objects.get(picture_key(tenant_id, sha256))
    assert sha256_hex(png) == sha256
    assert png.startswith(b"\x89PNG")
    form = client.post("/v1/pictures", files={"file": ("a.jpg", jpeg(), "image/jpeg")})
    assert (form.status_code, form.json()) == (201, body)
    assert list(services.objects.keys(f"pictures/{tenant_id}/")) == [picture_key(tenant_id, sha256)]


def test_an_upload_too_many(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is sent away instead of waiting in a thread that others need."""
    monkeypatch.setattr(cleaning, "_places", threading.BoundedSemaphore(0))
    answer = client.post("/v1/pictures", content=jpeg(), headers={"Content-Type": "image/jpeg"})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert "too many pictures" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("content", "kind", "status", "reason"),
    [
        (b"<svg/>", "image/svg+xml", 415, "is SVG: send PNG, JPEG or WebP"),
        (b"%PDF-1.7", "image/png", 415, "is PDF"),
        (b"\x89PNG\r\n\x1a\n", "application/pdf", 415, "send the picture itself"),
        (jpeg()[:-9], "image/jpeg", 422, "cut off"),
        (jpeg() + b"PK\x03\x04", "image/jpeg", 422, "behind the end"),
        (b"", "image/png", 422, "is empty"),
        (bytes(MAX_BYTES + 1), "image/png", 413, "more than 20 MiB"),
    ],
)
def test_uploads_that_are_refused(
    client: TestClient, content: bytes, kind: str, status: int, reason: str
) -> None:
    """Each is answered with a problem that says why, and nothing is stored."""
    answer = client.post("/v1/pictures", content=content, headers={"Content-Type": kind})
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM)
    assert reason in answer.json()["detail"]


def test_forms_that_are_refused(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A form is read no further than a picture may be large, and must hold a file."""
    assert client.post("/v1/pictures", files={"other": b"x"}).status_code == 422
    bad = client.post("/v1/pictures", content=b"x", headers={"Content-Type": "multipart/form-data"})
    assert bad.status_code == 400
    monkeypatch.setattr(pictures, "MAX_BYTES", 2 * 1024 * 1024)
    answer = client.post("/v1/pictures", files={"file": bytes(3 * 1024 * 1024)})
    assert answer.status_code == 413


@pytest.mark.usefixtures("tint")
def test_a_job_holds_the_picture_and_not_the_file(
    services: Services, tenant_id: UUID, engine: Engine, tmp_path: Path
) -> None:
    """A file's key becomes its picture at submission; samples and pictures stay as they are."""
    (tmp_path / "a.jpg").write_bytes(jpeg())
    files.put(services, tenant_id, tmp_path / "a.jpg", "photos/a.jpg")
    own = storing.reference(storing.store(services.objects, tenant_id, picture(1)))
    submitted(services, tenant_id, image="photos/a.jpg", more=[own, "sample:mug.png"])
    (request,) = stored_requests(engine)
    made = storing.reference(storing.store(services.objects, tenant_id, jpeg()))
    assert request["image"] == made
    assert request["more"] == [own, "sample:mug.png"]


@pytest.mark.usefixtures("tint")
def test_references_that_are_refused(
    services: Services, tenant_id: UUID, engine: Engine, tmp_path: Path
) -> None:
    """What is not there, or is not what the field takes, is said of its field, with a way out."""
    (tmp_path / "a").write_bytes(b"<svg/>")
    files.put(services, tenant_id, tmp_path / "a", "a.svg")
    good = "sample:apple.png"
    reasons: dict[str, dict[str, object]] = {
        "request.image: there is no sample 'aple.png'; did you mean": {"image": "sample:aple.png"},
        "request.voice: sample:apple.png is image/png": {"image": good, "voice": good},
        "request.image: you have no such picture": {"image": f"picture:{'0' * 64}"},
        "request.image: the bucket has no file no.png": {"image": "no.png"},
        "request.image: a.svg is SVG: send PNG": {"image": "a.svg"},
        "request.voice: only pictures can be uploaded": {"image": good, "voice": "a.mp3"},
        "request.more[1]: you have no such": {"image": good, "more": [good, f"picture:{'1' * 64}"]},
        "write the file's key out": {"image": "a-{date}.png"},
    }
    for reason, request in reasons.items():
        assert reason in refused(services, tenant_id, **request)
    assert stored_requests(engine) == []


@pytest.mark.usefixtures("tint")
def test_another_tenants_picture(
    services: Services, tenant_id: UUID, engine: Engine, client: TestClient
) -> None:
    """Whoever knows the digest of another tenant's picture cannot use it."""
    headers = {"Content-Type": "image/jpeg"}
    made = client.post("/v1/pictures", content=jpeg(), headers=headers).json()["picture"]
    job = {"kind": "tint", "request": {"image": made}}
    assert client.post("/v1/jobs", json=job).status_code == 202
    other = as_tenant(new_key(engine, "other"))
    answer = client.post("/v1/jobs", json=job, headers=other)
    assert answer.status_code == 422
    assert "you have no such picture" in answer.json()["detail"]


def tint_campaign(image: str) -> dict[str, Any]:
    """Two recipients."""
    return {
        "name": "Tints",
        "recipients": {"id": "id", "rows": [{"id": "1"}, {"id": "2"}]},
        "creatives": [{"name": "hero", "kind": "tint", "image": image, "model": "tint"}],
    }


@pytest.mark.usefixtures("tint")
def test_a_campaign(
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    make_runner: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """A constant file is read at submission, a templated one when its job runs."""
    (tmp_path / "a").write_bytes(jpeg())
    files.put(services, tenant_id, tmp_path / "a", "a.jpg")
    files.put(services, tenant_id, tmp_path / "a", "photos/1.jpg")
    for image in ("a.jpg", "photos/{{ id }}.jpg"):
        spec = from_mapping(tint_campaign(image))
        submissions.submit_campaign(services, tenant_id, spec, idempotency_key=image)
    with pytest.raises(BadInputError, match=r"creatives\[0\].image: the bucket has no file b.jpg"):
        submissions.submit_campaign(services, tenant_id, from_mapping(tint_campaign("b.jpg")))
    (tmp_path / "a").write_bytes(b"changed")
    files.put(services, tenant_id, tmp_path / "a", "a.jpg")
    # The same again is the first one, whatever has become of the file.
    submissions.submit_campaign(
        services, tenant_id, from_mapping(tint_campaign("a.jpg")), idempotency_key="a.jpg"
    )
    assert len(list(fanout.fan_out(services.engine))) == 2
    assert make_runner().run_next()
    assert sorted(jobs(engine).values(), key=str) == [
        ("failed", 1, "input_missing"),
        *[("succeeded", 1, None)] * 3,
    ]
    sha256 = storing.store(services.objects, tenant_id, jpeg()).sha256
    with engine.begin() as connection:
        facts = connection.execute(text("SELECT facts FROM artifacts")).scalars().all()
        (error,) = connection.execute(
            text("SELECT error FROM jobs WHERE status = 'failed'")
        ).scalars()
    assert [fact["inputs"] for fact in facts] == [{"image": [sha256]}] * 3
    assert "image: the bucket has no file photos/2.jpg" in error["message"]


@pytest.mark.usefixtures("tint")
def test_a_campaign_of_a_schedule(
    services: Services, tenant_id: UUID, engine: Engine, tmp_path: Path
) -> None:
    """Each run reads the file as it is then, and fails as a whole where it is not there."""
    spec = from_mapping(tint_campaign("a.jpg"))
    with pytest.raises(BadInputError, match=r"no file a\.jpg"), engine.begin() as connection:
        submissions.store_campaign(services, connection, tenant_id, spec, None, window=None)
    made = []
    for number in range(2):
        (tmp_path / "a").write_bytes(picture(number))
        files.put(services, tenant_id, tmp_path / "a", "a.jpg")
        made.append(storing.store(services.objects, tenant_id, picture(number)))
        with engine.begin() as connection:
            submissions.store_campaign(services, connection, tenant_id, spec, None, window=None)
    with engine.begin() as connection:
        rows = connection.execute(text("SELECT parameters FROM creatives ORDER BY id")).scalars()
        assert [row["image"] for row in rows] == [storing.reference(one) for one in made]


@pytest.mark.usefixtures("tint")
def test_what_the_family_is_given(
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    make_runner: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its files by field and in order; what several jobs name is fetched once."""
    own = storing.store(services.objects, tenant_id, picture(1))
    voice = "sample:voice.mp3"
    request = {"image": storing.reference(own), "voice": voice, "more": ["sample:mug.png"] * 2}
    submitted(services, tenant_id, **request)
    submitted(services, tenant_id, **request)
    read: list[str] = []
    get = ObjectStore.get

    def counted(store: ObjectStore, key: str) -> bytes:
        read.append(key)
        return get(store, key)

    monkeypatch.setattr(ObjectStore, "get", counted)
    assert make_runner().run_next()
    assert read == [picture_key(tenant_id, own.sha256)]
    with engine.begin() as connection:
        keys = connection.execute(text("SELECT object_key FROM artifacts")).scalars().all()
    assert len(keys) == 2
    for key in keys:
        assert json.loads(get(services.objects, key)) == {
            "image": [["image/png", own.sha256]],
            "voice": [["audio/mpeg", sha256_hex(samples.read("voice.mp3"))]],
            "more": [["image/png", sha256_hex(samples.read("mug.png"))]] * 2,
        }


@pytest.mark.usefixtures("tint")
def test_a_picture_that_is_refused_is_looked_at_once(
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    make_runner: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many jobs of a batch name it: to refuse it may take half a minute."""
    services.objects.put(object_key(tenant_id, "a.jpg"), jpeg()[:-9], "image/jpeg")
    spec = from_mapping(tint_campaign("{% if id %}a.jpg{% endif %}"))
    submissions.submit_campaign(services, tenant_id, spec)
    assert len(list(fanout.fan_out(services.engine))) == 1
    read: list[str] = []
    opened = ObjectStore.open

    def counted(store: ObjectStore, key: str) -> Any:
        read.append(key)
        return opened(store, key)

    monkeypatch.setattr(ObjectStore, "open", counted)
    assert make_runner().run_next()
    assert len(read) == 1
    assert list(jobs(engine).values()) == [("failed", 1, "bad_input")] * 2


@pytest.mark.usefixtures("tint")
def test_one_picture_that_is_gone_or_changed(
    services: Services, tenant_id: UUID, engine: Engine, make_runner: Callable[..., Any]
) -> None:
    """Their jobs fail and say so, and their mates succeed."""
    gone, changed, good = (
        storing.store(services.objects, tenant_id, picture(number)) for number in range(3)
    )
    ids = [
        submitted(services, tenant_id, image=storing.reference(one))
        for one in (gone, changed, good)
    ]
    services.objects.delete([picture_key(tenant_id, gone.sha256)])
    services.objects.put(picture_key(tenant_id, changed.sha256), good.png, "image/png")
    assert make_runner().run_next()
    assert jobs(engine) == dict(
        zip(
            ids,
            [
                ("failed", 1, "input_missing"),
                ("waiting", 1, "input_corrupt"),
                ("succeeded", 1, None),
            ],
            strict=True,
        )
    )


@pytest.mark.usefixtures("tint")
def test_a_bucket_that_is_away(
    services: Services, tenant_id: UUID, engine: Engine, make_runner: Callable[..., Any]
) -> None:
    """Jobs whose pictures cannot be read go back as they came."""
    own = storing.reference(storing.store(services.objects, tenant_id, picture(1)))
    ids = [submitted(services, tenant_id, image=own) for _ in range(2)]
    (nowhere,) = ports.choose(["s3"], {}).values()
    away = replace(services.objects, endpoint=f"http://127.0.0.1:{nowhere}", tries=1)
    assert make_runner(replace(services, objects=away)).run_next()
    assert jobs(engine) == dict.fromkeys(ids, ("queued", 0, None))
    assert make_runner().run_next()
    assert jobs(engine) == dict.fromkeys(ids, ("succeeded", 1, None))


@pytest.mark.usefixtures("tint")
def test_what_another_job_has_made(
    services: Services, tenant_id: UUID, make_runner: Callable[..., Any]
) -> None:
    """It is given as it is if it is of the right sort and has the recorded digest."""
    other = UUID(int=1)
    job_id = submitted(services, tenant_id, image="sample:apple.png")
    # As if it had been submitted before the other one was purged, whatever is checked then.
    with services.engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE jobs SET request = jsonb_set(request, '{image}', to_jsonb(:image ::text))"
            ),
            {"image": f"job:{other}#1"},
        )
    data = picture(5)
    services.objects.put("made.png", data, "image/png")
    good = NeedArtifact("made.png", "image/png", sha256_hex(data))
    runner = make_runner()
    cases: Mapping[str | None, list[NeedArtifact]] = {
        "input_missing": [good],
        "bad_input": [good, NeedArtifact("made.png", "audio/wav", good.sha256)],
        "input_corrupt": [good, NeedArtifact("made.png", "image/png", "0" * 64)],
        None: [good, good],
    }
    batch = take(services.engine, 8)
    assert batch
    for code, outputs in cases.items():
        needed = {job_id: {str(other): outputs}}
        inputs = Inputs(services.objects, lambda _, needed=needed: needed)  # type: ignore[misc]
        (found,) = inputs.given(batch, items_of(batch))
        if isinstance(found, Item):
            assert code is None
            assert found.inputs["image"][0].data == data
        else:
            assert getattr(found, "code", None) == code
    assert runner.pause_s == 0


@pytest.fixture
def run(servers: Servers) -> Callable[..., tuple[int, str]]:
    """Runs the command in this process, and gives its exit code and answer."""
    command = CliRunner()

    def run(*arguments: object) -> tuple[int, str]:
        done = command.invoke(app, list(map(str, arguments)), env=servers.environment)
        return done.exit_code, done.stdout

    return run


@pytest.mark.usefixtures("tint")
def test_the_command(
    services: Services,
    tenant_id: UUID,
    make_runner: Callable[..., Any],
    run: Callable[..., tuple[int, str]],
    tmp_path: Path,
) -> None:
    """``picture put`` and ``job fetch`` do what the API does."""
    (tmp_path / "a.jpg").write_bytes(jpeg())
    code, out = run("picture", "put", tmp_path / "a.jpg", "--json")
    put = json.loads(out)
    assert (code, put["width"], put["height"]) == (0, 12, 8)
    job_id = submitted(services, tenant_id, image=put["picture"])
    fetch = ("job", "fetch", job_id, "--out", tmp_path / "out")
    assert run(*fetch) == (1, "nothing was made: the job is queued\n")
    assert make_runner().run_next()
    code, out = run(*fetch)
    assert code == 0
    assert put["picture"].endswith(json.loads(Path(out.strip()).read_text())["image"][0][1])


@pytest.mark.usefixtures("tint")
def test_kinds(
    client: TestClient, engine: Engine, tenant_id: UUID, run: Callable[..., tuple[int, str]]
) -> None:
    """Both doors tell what a kind makes and starts from; its example can be posted as it is."""
    (kind,) = [kind for kind in client.get("/v1/kinds").json() if kind["name"] == "tint"]
    assert json.loads(run("kinds", "tint", "--json")[1]) == [kind]
    assert (kind["makes"], kind["templates"], kind["models"]) == ("text", ["image"], ["tint"])
    assert kind["inputs"] == {"image": "picture", "voice": "sound", "more": "picture"}
    assert client.post("/v1/jobs", json=kind["example"]).status_code == 202
    shown = run("kinds", "tint")[1]
    assert "  inputs:    image (picture), voice (sound), more (picture)" in shown
    assert json.loads(shown.partition("schema:\n")[2]) == kind["schema"]
    assert "schema:" not in run("kinds")[1]
    assert run("kinds", "tent")[0] != 0


@pytest.mark.usefixtures("tint")
def test_kinds_are_tried(
    tenant_id: UUID,
    make_runner: Callable[..., Any],
    run: Callable[..., tuple[int, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``kinds --try`` runs the examples, keeps what they make, and fails if one does."""
    over = threading.Event()
    runner = make_runner()

    def work() -> None:
        while not over.wait(0.05):
            runner.run_next()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        trying = ("kinds", "tint", "--try")
        code, out = run(*trying, "--json", "--out", tmp_path / "kept")
        (trial,) = json.loads(out)
        assert (code, trial["status"], trial["error"]) == (0, "succeeded", None)
        assert (trial["model"], trial["media_types"]) == ("tint", ["application/json"])
        assert trial["size_bytes"] == Path(trial["files"][0]).stat().st_size
        get = ObjectStore.get
        monkeypatch.setattr(ObjectStore, "get", lambda store, key: get(store, key) + b"!")
        code, out = run(*trying)
        assert code == 1
        assert "does not have the recorded sha256" in out
        assert out.endswith("0 of 1 kinds work here\n")
    finally:
        over.set()
        worker.join()


@pytest.mark.usefixtures("tint")
def test_kinds_are_tried_without_a_worker(
    tenant_id: UUID, run: Callable[..., tuple[int, str]]
) -> None:
    """It ends when its time is over, and says where to look."""
    code, out = run("kinds", "tint", "--try", "--wait-s", 1)
    assert code == 1
    assert "is a worker running?" in out
