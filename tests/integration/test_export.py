"""An export: every file where it belongs, a line per job, and nothing fetched twice or trusted."""

import io
import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from PIL import Image

from jobs import requests
from jobs.export import CorruptArtifactError, Export, export_campaign
from jobs.services import Services
from storage.ledger import cancel
from storage.ledger.finish import NewArtifact, Succeeded, finish
from storage.objects import ObjectMissingError, artifact_key, sha256_hex
from tests.integration.doors import campaign, claimed, fail, fanned_out, picture, succeed

HOSTILE = [
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "a\\b",
    ".hidden",
    "..",
    "CON",
    "nul.png",
    "🎁",
    "王小明",
    "x" * 512,
    "x" * 511 + "y",
    "王" * 512,
    "line\nbreak",
    "=1+1",
    "trailing.",
    "trailing ",
    "trailing",
    "Case",
    "case",
    "CASE",
    "é",
    "e\u0301",
    "manifest.jsonl",
    "contact-sheet.png",
    "a%2Fb",
    "~root",
    "-rf",
]


def exported(services: Services, tenant_id: UUID, campaign_id: UUID, folder: Path) -> Export:
    """The campaign's export as it is now."""
    view = requests.campaign(services, tenant_id, campaign_id)
    return export_campaign(services, view, tenant_id, folder)


def lines(export: Export) -> list[dict[str, Any]]:
    """The manifest."""
    return [json.loads(line) for line in export.manifest.read_text("utf-8").split("\n")[:-1]]


def of(*recipients: str) -> dict[str, Any]:
    """A campaign of these recipients."""
    return campaign([{"id": recipient, "product": "mug"} for recipient in recipients])


def test_a_line_per_job(services: Services, tenant_id: UUID, tmp_path: Path) -> None:
    """The manifest has every job, whatever became of it, and the files of those that succeeded."""
    campaign_id = fanned_out(services, tenant_id, of("ok", "bad", "late", "no"))
    batch = claimed(services, size=1)
    made = succeed(services, batch)[batch.jobs[0].id]
    bad = claimed(services, size=1)
    fail(services, bad)
    late = claimed(services, size=1)
    out = tmp_path / "new" / "out"
    export = exported(services, tenant_id, campaign_id, out)
    ok, *others = lines(export)
    digest = sha256_hex(made)
    (output,) = ok["outputs"]
    assert {name: output[name] for name in ("path", "object_key", "sha256")} == {
        name: ok[name] for name in ("path", "object_key", "sha256")
    }
    assert (output["media_type"], output["facts"]["seed"]) == ("image/png", 0)
    assert ok == {
        "outputs": [output],
        "job_id": str(batch.jobs[0].id),
        "recipient": "ok",
        "creative": "hero",
        "status": "succeeded",
        "object_key": f"artifacts/{batch.claim_id}/{batch.jobs[0].id}-0-{digest[:16]}.png",
        "path": "ok+hero.png",
        "sha256": digest,
        "width": 16,
        "height": 8,
        "seed": 0,
        "model": "debug-diffusion@1",
        "licence": None,
        "attribution": [],
        "attempts": 1,
        "error": None,
    }
    assert (out / "ok+hero.png").read_bytes() == made
    assert [line.keys() for line in others] == [ok.keys()] * 3
    assert [
        (line["recipient"], line["status"], line["path"], line["attempts"]) for line in others
    ] == [("bad", "failed", None, 1), ("late", "running", None, 1), ("no", "queued", None, 0)]
    assert others[0]["error"] == {"code": "out_of_memory", "message": "too big"}
    assert others[1]["job_id"] == str(late.jobs[0].id)
    assert (export.jobs, export.files) == (4, 1)
    assert {path.name for path in out.iterdir()} == {
        "ok+hero.png",
        "manifest.jsonl",
        "contact-sheet.png",
    }


def test_ids_that_are_hostile_as_file_names(
    services: Services, tenant_id: UUID, tmp_path: Path
) -> None:
    """Every recipient has a file of its own in the folder, and its own bytes in it."""
    campaign_id = fanned_out(services, tenant_id, of(*HOSTILE))
    made = succeed(services, claimed(services))
    out = tmp_path / "a" / "b" / "out"
    export = exported(services, tenant_id, campaign_id, out)
    found = lines(export)
    assert [line["recipient"] for line in found] == HOSTILE
    for line in found:
        path = out / line["path"]
        assert path.parent == out
        assert path.read_bytes() == made[UUID(line["job_id"])]
    assert len({line["path"].casefold() for line in found}) == len(HOSTILE)
    assert len(list(out.iterdir())) == len(HOSTILE) + 2
    assert list(tmp_path.rglob("*.png")) == list(out.glob("*.png"))


def test_names_do_not_depend_on_what_is_finished(
    services: Services, tenant_id: UUID, tmp_path: Path
) -> None:
    """Of two ids that differ in case, each keeps its name when the other one comes later."""
    campaign_id = fanned_out(services, tenant_id, of("ada", "ADA"))
    first, second = claimed(services, size=1), claimed(services, size=1)
    succeed(services, second)
    early = [line["path"] for line in lines(exported(services, tenant_id, campaign_id, tmp_path))]
    succeed(services, first)
    late = [line["path"] for line in lines(exported(services, tenant_id, campaign_id, tmp_path))]
    assert early == [None, f"ADA~{second.jobs[0].id}+hero.png"]
    assert late == ["ada+hero.png", early[1]]


def test_several_creatives(services: Services, tenant_id: UUID, tmp_path: Path) -> None:
    """A recipient's outputs are told apart by their creatives."""
    creatives = [{"name": name, "prompt": "x", "size": "64x64"} for name in ("hero", "tile.2")]
    given = campaign([{"id": "A"}, {"id": "a"}], creatives=creatives)
    campaign_id = fanned_out(services, tenant_id, given)
    succeed(services, claimed(services))
    found = lines(exported(services, tenant_id, campaign_id, tmp_path))
    assert [line["path"] for line in found] == [
        "A+hero.png",
        "A+tile.2.png",
        f"a~{found[2]['job_id']}+hero.png",
        f"a~{found[3]['job_id']}+tile.2.png",
    ]


def test_a_repeated_export_fetches_nothing(
    services: Services, tenant_id: UUID, tmp_path: Path
) -> None:
    """Files that are there with the right bytes stay, even if the bucket has lost them."""
    campaign_id = fanned_out(services, tenant_id, of("1", "2"))
    succeed(services, claimed(services))
    first = exported(services, tenant_id, campaign_id, tmp_path)
    manifest = first.manifest.read_bytes()
    written_ns = (tmp_path / "1+hero.png").stat().st_mtime_ns
    services.objects.delete([line["object_key"] for line in lines(first)])
    again = exported(services, tenant_id, campaign_id, tmp_path)
    assert (again.files, again.manifest.read_bytes()) == (2, manifest)
    assert (tmp_path / "1+hero.png").stat().st_mtime_ns == written_ns


def test_a_damaged_file_is_fetched_again(
    services: Services, tenant_id: UUID, tmp_path: Path
) -> None:
    """A file that is there with other bytes is replaced, and what came later is added."""
    campaign_id = fanned_out(services, tenant_id, of("1", "2"))
    made = succeed(services, claimed(services, size=1))
    exported(services, tenant_id, campaign_id, tmp_path)
    (tmp_path / "1+hero.png").write_bytes(b"half a pic")
    made |= succeed(services, claimed(services))
    for line in lines(exported(services, tenant_id, campaign_id, tmp_path)):
        assert (tmp_path / line["path"]).read_bytes() == made[UUID(line["job_id"])]


def test_a_link_in_the_folder_is_not_written_through(
    services: Services, tenant_id: UUID, tmp_path: Path
) -> None:
    """A symbolic link under a file's name is replaced; what it led to is left alone."""
    outside = tmp_path / "outside"
    outside.write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    (out / "1+hero.png").symlink_to(outside)
    campaign_id = fanned_out(services, tenant_id, of("1"))
    succeed(services, claimed(services))
    exported(services, tenant_id, campaign_id, out)
    assert outside.read_text() == "mine"
    assert not (out / "1+hero.png").is_symlink()


def test_a_corrupted_object_is_detected(
    services: Services, tenant_id: UUID, tmp_path: Path
) -> None:
    """Other bytes than the ledger recorded are named and not written; no manifest vouches."""
    campaign_id = fanned_out(services, tenant_id, of("1", "2"))
    batch = claimed(services)
    made = succeed(services, batch)
    job_id = batch.jobs[0].id
    key = requests.job(services, tenant_id, job_id).artifacts[0].object_key
    services.objects.put(key, picture(99), "image/png")
    with pytest.raises(CorruptArtifactError, match=key):
        exported(services, tenant_id, campaign_id, tmp_path)
    assert not (tmp_path / "1+hero.png").exists()
    assert not (tmp_path / "manifest.jsonl").exists()
    services.objects.put(key, made[job_id], "image/png")
    assert exported(services, tenant_id, campaign_id, tmp_path).files == 2
    assert not list(tmp_path.glob("*.part")) + list(tmp_path.glob(".*.part"))


def test_a_lost_object_is_named(services: Services, tenant_id: UUID, tmp_path: Path) -> None:
    """An object that is gone from the bucket is an error that says which."""
    campaign_id = fanned_out(services, tenant_id, of("1"))
    batch = claimed(services)
    succeed(services, batch)
    key = requests.job(services, tenant_id, batch.jobs[0].id).artifacts[0].object_key
    services.objects.delete([key])
    with pytest.raises(ObjectMissingError, match=key):
        exported(services, tenant_id, campaign_id, tmp_path)


def test_a_campaign_that_has_made_nothing(
    services: Services, tenant_id: UUID, tmp_path: Path
) -> None:
    """A cancelled campaign has a manifest and no files."""
    campaign_id = fanned_out(services, tenant_id, of("1"))
    cancel.cancel_campaign(services.engine, tenant_id, campaign_id)
    cancel.cancel_flagged(services.engine)
    export = exported(services, tenant_id, campaign_id, tmp_path)
    assert [line["status"] for line in lines(export)] == ["cancelled"]
    assert (export.files, export.sheet) == (0, None)


def test_the_contact_sheet_shows_the_pictures(
    services: Services, tenant_id: UUID, tmp_path: Path
) -> None:
    """The sheet has a cell per picture, in the order of the recipients."""
    campaign_id = fanned_out(services, tenant_id, of(*map(str, range(10))))
    made = succeed(services, claimed(services))
    export = exported(services, tenant_id, campaign_id, tmp_path)
    assert export.sheet
    colours = []
    with Image.open(export.sheet) as sheet:
        assert sheet.size == (8 * 136 + 8, 2 * 136 + 8)
        for place in range(10):
            row, column = divmod(place, 8)
            colours.append(sheet.getpixel((8 + column * 136 + 64, 8 + row * 136 + 64)))
    expected = []
    for job_id in sorted(made):
        with Image.open(io.BytesIO(made[job_id])) as single:
            expected.append(single.getpixel((0, 0)))
    assert colours == expected


def test_more_than_one_page(services: Services, tenant_id: UUID, tmp_path: Path) -> None:
    """Exports go through the jobs in pages, and tell how far they are."""
    campaign_id = fanned_out(services, tenant_id, of(*map(str, range(600))))
    view = requests.campaign(services, tenant_id, campaign_id)
    told: list[int] = []
    export = export_campaign(services, view, tenant_id, tmp_path, progress=told.append)
    assert [line["recipient"] for line in lines(export)] == [str(n) for n in range(600)]
    assert told == [256, 512, 600]


def test_outputs_of_other_sorts(services: Services, tenant_id: UUID, tmp_path: Path) -> None:
    """Every output of a job is a file of its own, and only pictures are on the sheet."""
    campaign_id = fanned_out(services, tenant_id, of("1"))
    batch = claimed(services)
    job_id = batch.jobs[0].id
    artifacts = []
    for index, (data, media_type) in enumerate(
        [(b"Fresh apples", "text/plain; charset=utf-8"), (picture(0), "image/png")]
    ):
        digest = sha256_hex(data)
        key = artifact_key(batch.claim_id, job_id, index, digest, media_type)
        services.objects.put(key, data, media_type)
        artifacts.append(NewArtifact(key, media_type, digest, len(data), {"tokens": 2}))
    finish(services.engine, batch.claim_id, [Succeeded(job_id, artifacts)])
    export = exported(services, tenant_id, campaign_id, tmp_path)
    (line,) = lines(export)
    assert [output["path"] for output in line["outputs"]] == ["1+hero.txt", "1+hero+1.png"]
    assert (tmp_path / "1+hero.txt").read_bytes() == b"Fresh apples"
    assert export.sheet
    with Image.open(export.sheet) as sheet:
        assert sheet.size == (136 + 8, 136 + 8)
