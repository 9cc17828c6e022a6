"""Datasets by the command and over HTTP, within one tenant."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from jobs.api import datasets
from jobs.campaigns.keys import object_key
from jobs.datasets import keeping, reading
from jobs.datasets.definition import DatasetSpec
from jobs.problems import ConflictError
from jobs.services import Services
from jobs.settings import Settings
from jobs.standalone import ports
from storage.objects import ObjectStoreError, picture_key, sha256_hex
from tests.dataset_files import imagefolder, jsonl, mask, pairs, photo, zipped
from tests.integration.doors import PROBLEM, as_tenant, new_key, rows, served
from tests.integration.test_cli import Run, environment, run

__all__ = ["environment", "run"]

TERMS = {"licence": "LicenseRef-acme", "consent": "no person is shown"}
OPTIONS = ("--licence", TERMS["licence"], "--consent", TERMS["consent"])


@pytest.fixture
def client(settings: Settings, tenant_id: UUID, engine: Engine) -> Iterator[TestClient]:
    """A client of the API with a key of the default tenant."""
    with served(settings, new_key(engine)) as serving:
        yield serving


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An imagefolder with a mask."""
    return written({**imagefolder(), "0.mask.png": mask()}, tmp_path / "mugs")


def written(files: Mapping[str, bytes], folder: Path) -> Path:
    """The directory with those files."""
    folder.mkdir()
    for name, body in files.items():
        (folder / name).write_bytes(body)
    return folder


def put(services: Services, tenant_id: UUID, prefix: str, files: Mapping[str, bytes]) -> None:
    """Files of the tenant's in the bucket."""
    for name, body in files.items():
        services.objects.put(object_key(tenant_id, f"{prefix}/{name}"), body, "image/png")


def kept(services: Services, tenant_id: UUID) -> set[str]:
    """The keys of all that belongs to the tenant's datasets."""
    prefixes = (f"datasets/{tenant_id}/", f"pictures/{tenant_id}/")
    return {key for prefix in prefixes for key in services.objects.keys(prefix)}


def manifest(services: Services, tenant_id: UUID, digest: str) -> list[dict[str, Any]]:
    """The items of a manifest, which has that digest."""
    body = services.objects.get(f"datasets/{tenant_id}/{digest}.jsonl")
    assert sha256_hex(body) == digest
    return [json.loads(line) for line in body.splitlines()]


def test_from_the_command(
    run: Run, services: Services, tenant_id: UUID, engine: Engine, folder: Path
) -> None:
    """A dataset is checked, added, listed, shown and removed; its name stays taken."""
    source = ("--source", f"dir:{folder}")
    checked = run("dataset", "check", *source, "--json").document
    assert (checked["count"], checked["masks"], checked["sizes"]) == (3, 1, {"96x80": 3})
    assert (rows(engine)["datasets"], kept(services, tenant_id)) == (0, set())
    said = run("dataset", "check", *source, "--trigger", "brandx")
    assert said.out.startswith(f"3 pictures, sha256 {checked['digest']}\n      3 of 96x80\n")
    assert said.err == "warning: --trigger: 'brandx' is in none of 3 captions\n"

    adding = ("dataset", "add", "mugs", *source, *OPTIONS, "--trigger", "brandx-mug")
    added = run(*adding, "--json").document
    assert {
        **TERMS,
        "kind": "pictures",
        "count": 3,
        "trigger": "brandx-mug",
        "warnings": [],
    }.items() <= (added.items())
    assert added["digest"] == checked["digest"]
    items = manifest(services, tenant_id, added["digest"])
    assert [item["file"] for item in items] == ["0.png", "1.png", "2.png"]
    for sha256 in (*(item["picture"] for item in items), items[0]["mask"]):
        assert sha256_hex(services.objects.get(picture_key(tenant_id, sha256))) == sha256
    assert len(kept(services, tenant_id)) == 5
    assert run(*adding, "--json").document == added

    del added["warnings"]
    assert run("dataset", "list", "--json").document == [added]
    shown = run("dataset", "show", "mugs", "--json").document
    captions = [f"a brandx-mug, number {number}" for number in range(3)]
    assert shown == {**added, "examples": captions}
    assert "consent: no person is shown\n" in run("dataset", "show", "mugs").out
    assert ", removed on " in run("dataset", "remove", "mugs").out
    assert ", removed on " in run("dataset", "list").out
    again = run(*adding)
    assert (again.code, "was removed, and its name stays taken" in again.err) == (2, True)
    assert len(kept(services, tenant_id)) == 5
    assert run("dataset", "show", "mug").err == "there is no dataset 'mug'\n"


def test_every_source_gives_the_same(
    run: Run, services: Services, tenant_id: UUID, folder: Path, tmp_path: Path
) -> None:
    """A directory, an archive, and files in the bucket of the same content have one digest."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    (tmp_path / "mugs.zip").write_bytes(zipped(files))
    put(services, tenant_id, "photos/mugs", files)
    put(services, tenant_id, "packed", {"mugs.zip": zipped(files)})
    digests = {
        run("dataset", "check", "--source", source, "--json").document["digest"]
        for source in (
            f"dir:{folder}",
            f"zip:{tmp_path / 'mugs.zip'}",
            "files:photos/mugs/",
            "files:packed/mugs.zip",
        )
    }
    assert len(digests) == 1


def test_texts(run: Run, services: Services, tenant_id: UUID, tmp_path: Path) -> None:
    """The manifest of a text is the text, cleaned."""
    file = tmp_path / "voice.jsonl"
    file.write_bytes(jsonl(pairs()))
    adding = ("dataset", "add", "voice", "--source", f"jsonl:{file}", *OPTIONS)
    added = run(*adding, "--json").document
    assert (added["kind"], added["count"]) == ("text", 10)
    assert manifest(services, tenant_id, added["digest"]) == pairs()
    assert run("dataset", "show", "voice").out.endswith(
        "examples:\n" + "".join(f"  mug {number}\n" for number in range(5))
    )


def test_what_the_command_refuses(run: Run, engine: Engine, folder: Path, tmp_path: Path) -> None:
    """Options are named as such, files by their names, and nothing is registered."""
    (folder / "2.png").write_bytes(b"<svg/>")
    (folder / "out.png").symlink_to("/etc/hostname")
    said = run("dataset", "add", "mugs", "--source", f"dir:{folder}", *OPTIONS)
    assert (said.code, said.out) == (2, "")
    assert said.err.splitlines() == [
        "2.png: is SVG: send PNG, JPEG or WebP",
        "out.png: is a link out of the directory",
    ]
    for source, reason in {
        "s3:x": "--source: use zip:PATH, dir:PATH, files:PREFIX or jsonl:PATH",
        "dir:no": "--source: there is no directory no",
        "zip:no.zip": "--source: there is no file no.zip",
        "files:../x": "--source: ../x is no key",
        "files:no": "--source: you have no pictures below no/ in the bucket",
        "files:no.zip": "--source: the bucket has no file no.zip",
    }.items():
        assert run("dataset", "check", "--source", source).err.startswith(reason)
    bad = run("dataset", "add", "a/b", "--source", "dir:x", *OPTIONS, "--trigger", "photo")
    assert [line.partition(":")[0] for line in bad.err.splitlines()] == ["--trigger", "NAME"]
    assert rows(engine)["datasets"] == 0


def test_over_http(client: TestClient, services: Services, tenant_id: UUID) -> None:
    """An upload and a prefix do what the command does."""
    files = {**imagefolder(), "near.png": photo(0, 192, 160)}
    data = {**TERMS, "name": "mugs", "caption": "a mug"}
    upload = {"file": ("mugs.zip", zipped(files))}
    answer = client.post("/v1/datasets", data=data, files=upload)
    assert answer.status_code == 201, answer.text
    added = answer.json()
    assert added.pop("warnings") == [
        {"file": "near.png", "message": "is nearly the same picture as 0.png"}
    ]
    assert (added["count"], added["attribution"], added["removed_at"]) == (4, None, None)
    put(services, tenant_id, "photos/mugs", files)
    stored = {**data, "name": "others", "source": "files:photos/mugs"}
    other = client.post("/v1/datasets", json=stored).json()
    assert (other["name"], other["digest"]) == ("others", added["digest"])
    assert client.get("/v1/datasets").json() == {
        "datasets": [added, {key: other[key] for key in added}]
    }
    shown = client.get("/v1/datasets/mugs").json()
    assert shown.pop("examples")[-1] == "a mug"
    assert shown == added
    assert [client.delete("/v1/datasets/mugs").status_code for _ in range(2)] == [204, 204]
    assert client.get("/v1/datasets/mugs").json()["removed_at"]


def test_another_tenant(client: TestClient, engine: Engine) -> None:
    """It sees none of them, may use the name for its own, and has no way to the others' files."""
    data = {**TERMS, "name": "voice"}
    upload = {"file": ("voice.jsonl", jsonl(pairs()))}
    assert client.post("/v1/datasets", data=data, files=upload).status_code == 201
    headers = as_tenant(new_key(engine, "other"))
    for method in ("GET", "DELETE"):
        answer = client.request(method, "/v1/datasets/voice", headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (404, PROBLEM)
    assert client.get("/v1/datasets", headers=headers).json() == {"datasets": []}
    upload = {"file": ("voice.jsonl", jsonl(pairs(11)))}
    assert client.post("/v1/datasets", data=data, files=upload, headers=headers).status_code == 201
    assert client.get("/v1/datasets/voice").json()["count"] == 10
    conflict = client.post("/v1/datasets", data=data, files=upload)
    assert (conflict.status_code, conflict.headers["content-type"]) == (409, PROBLEM)
    assert "already, with another content: choose another name" in conflict.json()["detail"]


def test_requests_that_are_refused(
    client: TestClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a problem with an entry for all that is wrong, and registers nothing."""
    data = {**TERMS, "name": "mugs"}

    def said(status: int, **sent: Any) -> Any:
        answer = client.post("/v1/datasets", **sent)
        assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM)
        return answer.json()

    bad = {**imagefolder(), "a.gif": b"GIF89a", "b.png": photo(9)[:-9]}
    problem = said(422, data={**data, "caption": "x"}, files={"file": ("m.zip", zipped(bad))})
    assert [error["file"] for error in problem["errors"]] == ["a.gif", "b.png"]
    assert said(422, data={"name": "mugs"}, files={"file": ("m.zip", b"")})["errors"] == [
        {"field": "licence", "message": "is required"},
        {"field": "consent", "message": "is required"},
    ]
    assert said(422, data=data, files={"other": b"x"})["errors"][0]["field"] == "other"
    assert said(422, json={**data, "source": "dir:/etc"})["errors"][0]["field"] == "source"
    assert "must be an object" in said(422, json=[])["detail"]
    said(415, content=b"x", headers={"Content-Type": "application/zip"})
    said(400, content=b"x", headers={"Content-Type": "multipart/form-data"})
    monkeypatch.setattr(datasets, "MAX_UPLOAD_BYTES", 1000)
    assert (
        "POST /v1/files" in said(413, data=data, files={"file": ("m.zip", bytes(2000))})["detail"]
    )
    assert rows(engine)["datasets"] == 0


def test_what_was_interrupted(services: Services, tenant_id: UUID, tmp_path: Path) -> None:
    """It has registered nothing, and done again it is there; other terms are a conflict."""
    spec = DatasetSpec.model_validate({**TERMS, "name": "mugs"})
    folder = written(imagefolder(), tmp_path / "mugs")
    (nowhere,) = ports.choose(["s3"], {}).values()
    away = replace(services.objects, endpoint=f"http://127.0.0.1:{nowhere}", tries=1)
    with reading.opened(services, tenant_id, f"dir:{folder}") as material:
        with pytest.raises(ObjectStoreError):
            keeping.add(replace(services, objects=away), tenant_id, spec, material)
        assert keeping.listed(services, tenant_id) == []
        added = keeping.add(services, tenant_id, spec, material)
        assert keeping.listed(services, tenant_id) == [added.dataset]
        other = spec.model_copy(update={"consent": "all who are shown agreed"})
        with pytest.raises(ConflictError, match="with another consent"):
            keeping.add(services, tenant_id, other, material)
        twin = spec.model_copy(update={"name": "twin", "trigger": "brandx-mug"})
        assert keeping.add(services, tenant_id, twin, material).warnings == ()
        third = twin.model_copy(update={"name": "third"})
        (warning,) = keeping.add(services, tenant_id, third, material).warnings
        assert str(warning) == "trigger: dataset 'twin' has the same one"
