"""Bringing a campaign's results to disk: named files, a manifest, and one sheet to look at."""

import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

from PIL import Image

from jobs.services import Services
from storage import views
from storage.objects import ObjectStore, sha256_hex
from storage.views import ArtifactView, CampaignView, JobView

DOWNLOADS = 8
AT_ONCE = 256
NAME_BYTES = 140
"""Of a recipient's id; with the rest of the name less than the 255 of most file systems."""

SHEET_PICTURES = 48
SHEET_COLUMNS = 8
SHEET_SIDE_PX = 128
SHEET_GAP_PX = 8


class CorruptArtifactError(Exception):
    """The bucket holds other bytes than the ledger recorded."""


@dataclass(frozen=True)
class Export:
    """What was written. ``sheet`` is None if there was no picture."""

    folder: Path
    manifest: Path
    sheet: Path | None
    jobs: int
    files: int


def export_campaign(
    services: Services,
    campaign: CampaignView,
    tenant_id: UUID,
    folder: Path,
    *,
    progress: Callable[[int], None] = lambda _: None,
) -> Export:
    """Write the campaign's outputs and ``manifest.jsonl`` (a line per job) to ``folder``.

    A file that is there already with the right bytes is not fetched again, so that an export
    that was interrupted, or made before the campaign was over, can be repeated. ``progress`` is
    told the number of jobs written.

    Raises:
        CorruptArtifactError: naming the object; what was written before it stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / "manifest.jsonl"
    unfinished = manifest.with_suffix(".jsonl.part")
    jobs = files = 0
    pictures: list[Path] = []
    every = _with_twins(views.every_job(services.engine, tenant_id, campaign.id))
    with (
        unfinished.open("w", encoding="utf-8") as lines,
        ThreadPoolExecutor(DOWNLOADS) as downloads,
    ):

        def fetch(job: JobView, artifact: ArtifactView, *, is_twin: bool) -> Future[Path]:
            path = folder / file_name(job, artifact, is_twin=is_twin)
            return downloads.submit(_fetch, services.objects, artifact, path)

        while some := list(islice(every, AT_ONCE)):
            pending = [
                (job, [fetch(job, artifact, is_twin=is_twin) for artifact in job.artifacts])
                for job, is_twin in some
            ]
            for job, fetches in pending:
                paths = [fetched.result() for fetched in fetches]
                lines.write(json.dumps(_line(job, paths, folder), ensure_ascii=False) + "\n")
                jobs, files = jobs + 1, files + len(paths)
                room = max(SHEET_PICTURES - len(pictures), 0)
                pictures += list(_pictures(job, paths))[:room]
            progress(jobs)
        lines.flush()
        os.fsync(lines.fileno())
    unfinished.replace(manifest)
    sheet = _contact_sheet(pictures, folder / "contact-sheet.png") if pictures else None
    return Export(folder, manifest, sheet, jobs, files)


def export_job(services: Services, job: JobView, folder: Path) -> list[Path]:
    """Write the outputs of one job to ``folder``, and give their files.

    Raises:
        CorruptArtifactError: naming the object.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _fetch(services.objects, artifact, folder / file_name(job, artifact))
        for artifact in job.artifacts
    ]


def _with_twins(jobs: Iterator[JobView]) -> Iterator[tuple[JobView, bool]]:
    """Each job, and whether its recipient's id is one of an earlier recipient in another case.

    On many file systems A and a are one name. Which of the two comes first never changes: jobs
    come in the order of their ids, whatever has become of them.
    """
    taken: set[str] = set()
    recipient, is_twin = None, False
    for job in jobs:
        if job.recipient is not None and job.recipient != recipient:
            recipient = job.recipient
            folded = unicodedata.normalize("NFD", recipient).casefold()
            is_twin = folded in taken
            taken.add(folded)
        yield job, is_twin


def _fetch(objects: ObjectStore, artifact: ArtifactView, path: Path) -> Path:
    if path.exists() and sha256_hex(path.read_bytes()) == artifact.sha256:
        return path
    data = objects.get(artifact.object_key)
    if sha256_hex(data) != artifact.sha256:
        raise CorruptArtifactError(
            f"{artifact.object_key} does not have the recorded sha256 {artifact.sha256}"
        )
    # The rename makes the file whole or absent.
    unfinished = path.with_name(f".{artifact.id}.part")
    unfinished.write_bytes(data)
    unfinished.replace(path)
    return path


def file_name(job: JobView, artifact: ArtifactView, *, is_twin: bool = False) -> str:
    """``RECIPIENT+CREATIVE.png``, with whatever a file system could trip over as %XX.

    Letters and digits of every script stay; plus and tilde occur in neither part, so no two
    outputs share a name. A recipient id that is too long for a file name, or that differs from
    another one in case only (``is_twin``), is cut and made unique by the job's id.
    """
    suffix = artifact.object_key.rpartition(".")[2]
    index = f"+{artifact.index}" if artifact.index else ""
    recipient = _safe(job.recipient or str(job.id))
    if is_twin or len(recipient.encode()) > NAME_BYTES:
        cut = recipient.encode()[:NAME_BYTES].decode(errors="ignore")
        recipient = f"{re.sub('%.?$', '', cut)}~{job.id}"
    return f"{recipient}+{job.creative or job.kind}{index}.{suffix}"


def _safe(text: str) -> str:
    return "".join(
        character
        # In front a dot would hide the file, and a dash make it an option of some command.
        if character.isalnum() or character in "_@" or (character in "-." and place)
        else "".join(f"%{byte:02X}" for byte in character.encode())
        for place, character in enumerate(text)
    )


def _pictures(job: JobView, paths: list[Path]) -> Iterator[Path]:
    for artifact, path in zip(job.artifacts, paths, strict=True):
        if artifact.media_type.startswith("image/"):
            yield path


def _line(job: JobView, paths: list[Path], folder: Path) -> dict[str, Any]:
    """The first output's fields stand on top, for the many jobs that have one."""
    artifact = job.artifacts[0] if job.artifacts else None
    facts = artifact.facts if artifact else {}
    return {
        "job_id": str(job.id),
        "recipient": job.recipient,
        "creative": job.creative,
        "status": job.status.value,
        "object_key": artifact.object_key if artifact else None,
        "path": str(paths[0].relative_to(folder)) if paths else None,
        "sha256": artifact.sha256 if artifact else None,
        "width": facts.get("width"),
        "height": facts.get("height"),
        "seed": facts.get("seed"),
        "model": facts.get("model"),
        "licence": facts.get("licence"),
        "attribution": facts.get("attribution", []),
        "attempts": job.attempts,
        "error": job.error,
        "outputs": [
            {
                "path": str(path.relative_to(folder)),
                "object_key": output.object_key,
                "sha256": output.sha256,
                "media_type": output.media_type,
                "facts": output.facts,
            }
            for output, path in zip(job.artifacts, paths, strict=True)
        ],
    }


def _contact_sheet(pictures: list[Path], path: Path) -> Path:
    """The first pictures side by side, as one PNG."""
    columns = min(SHEET_COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    cell = SHEET_SIDE_PX + SHEET_GAP_PX
    size = (columns * cell + SHEET_GAP_PX, rows * cell + SHEET_GAP_PX)
    sheet = Image.new("RGB", size, "white")
    for place, (x, y) in enumerate(_cells(len(pictures), columns, cell)):
        with Image.open(pictures[place]) as picture:
            picture.thumbnail((SHEET_SIDE_PX, SHEET_SIDE_PX))
            offset_x = (SHEET_SIDE_PX - picture.width) // 2
            offset_y = (SHEET_SIDE_PX - picture.height) // 2
            sheet.paste(picture.convert("RGB"), (x + offset_x, y + offset_y))
    sheet.save(path)
    return path


def _cells(count: int, columns: int, cell: int) -> Iterator[tuple[int, int]]:
    for place in range(count):
        row, column = divmod(place, columns)
        yield SHEET_GAP_PX + column * cell, SHEET_GAP_PX + row * cell
