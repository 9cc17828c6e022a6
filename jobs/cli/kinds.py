"""``presswork kinds``: what can be made, and whether all of it can be made here."""

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from jobs import requests, submissions
from jobs.cli.output import DataOption, JsonFlag, answer, notes, opened
from jobs.export import CorruptArtifactError, export_job
from jobs.problems import BadInputError, Problem, nearest
from jobs.services import Services
from jobs.submissions import JobSubmission
from jobs.trainings.requests import TRAININGS
from storage.lifecycle import FINAL, JobStatus
from storage.objects import ObjectStoreError
from storage.views import JobView

LOOK_S = 0.25


@dataclass(frozen=True)
class Trial:
    """What became of a kind's example. ``seconds`` are from its submission to its end.

    ``error`` is None if the outputs were fetched and are what the ledger has recorded.
    """

    kind: str
    model: str
    job_id: UUID | None
    status: str
    seconds: float
    media_types: Sequence[str]
    size_bytes: int
    files: Sequence[str]
    error: str | None


def add_to(app: typer.Typer) -> None:
    """Add ``kinds``."""
    app.command()(kinds)


def kinds(
    name: Annotated[str | None, typer.Argument(help="One kind, with its JSON schema.")] = None,
    try_: Annotated[
        bool, typer.Option("--try", help="Run every example, fetch what it makes, and report.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", file_okay=False, help="With --try: keep the files here.")
    ] = None,
    wait_s: Annotated[
        float, typer.Option("--wait-s", min=1, help="With --try: how long to wait for all.")
    ] = 600,
    data: DataOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what can be made, each with an example; or try it."""
    with opened(data) as (services, tenant_id):
        found = _chosen(requests.kinds(services, tenant_id), name)
        if not try_:
            answer(found, as_json=as_json, text=_texts(found, with_schema=name is not None))
            return
        found = _to_try(found)
        with ExitStack() as stack:
            folder = out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            trials = list(_trials(services, tenant_id, found, folder, time.monotonic() + wait_s))
    if out is None:
        trials = [replace(trial, files=()) for trial in trials]
    answer(trials, as_json=as_json, text=_table(trials))
    if any(trial.error for trial in trials):
        raise typer.Exit(1)


def _chosen(found: list[dict[str, Any]], name: str | None) -> list[dict[str, Any]]:
    chosen = [kind for kind in found if name in {None, kind["name"]}]
    if not chosen:
        known = [kind["name"] for kind in found]
        raise BadInputError(Problem(f"there is no kind {name!r}; {nearest(str(name), known)}"))
    return chosen


def _to_try(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without trainings: they need a dataset, and hours."""
    chosen = [kind for kind in found if kind["name"] not in TRAININGS]
    if not chosen:
        message = "trainings are not tried: see `presswork train submit`"
        raise BadInputError(Problem(message, field="--try"))
    return chosen


def _texts(found: list[dict[str, Any]], *, with_schema: bool) -> str:
    shown = [
        _text(kind, with_schema=with_schema) for kind in found if kind["name"] not in TRAININGS
    ]
    trained = [_text(kind, with_schema=with_schema) for kind in found if kind["name"] in TRAININGS]
    if shown and trained:
        shown.append("Trainings, for `presswork train submit`:")
    return "\n\n".join([*shown, *trained])


def _text(kind: dict[str, Any], *, with_schema: bool) -> str:
    lines = [
        f"{kind['name']}: {kind['summary']}",
        f"  makes:     {kind['makes']}",
        f"  models:    {', '.join(kind['models']) or 'none'}",
        f"  templates: {', '.join(kind['templates']) or 'none'}",
    ]
    if kind["inputs"]:
        inputs = ", ".join(f"{field} ({medium})" for field, medium in kind["inputs"].items())
        lines.append(f"  inputs:    {inputs}")
    lines.append(f"  example:   {json.dumps(kind['example'], ensure_ascii=False)}")
    if with_schema:
        lines.append(f"  schema:\n{json.dumps(kind['schema'], indent=2, ensure_ascii=False)}")
    return "\n".join(lines)


def _trials(
    services: Services,
    tenant_id: UUID,
    found: list[dict[str, Any]],
    folder: Path,
    deadline: float,
) -> Iterator[Trial]:
    """Submit all examples at once, and report each in their order."""
    submitted = [(kind, _submitted(services, tenant_id, kind)) for kind in found]
    for kind, job in submitted:
        model = kind["example"]["request"].get("model", kind["default_model"])
        if isinstance(job, BadInputError):
            yield Trial(kind["name"], model, None, "refused", 0, (), 0, (), str(job))
            continue
        notes.print(f"{kind['name']}: job {job}")
        view = requests.job(services, tenant_id, job)
        while view.status not in FINAL and time.monotonic() < deadline:
            time.sleep(LOOK_S)
            view = requests.job(services, tenant_id, job)
        yield _trial(services, view, model, folder)


def _submitted(services: Services, tenant_id: UUID, kind: dict[str, Any]) -> UUID | BadInputError:
    try:
        example = JobSubmission.model_validate(kind["example"])
        return submissions.submit_job(services, tenant_id, example)
    except BadInputError as error:
        return error


def _trial(services: Services, view: JobView, model: str, folder: Path) -> Trial:
    files: list[Path] = []
    error = None
    if view.status is JobStatus.SUCCEEDED:
        try:
            files = export_job(services, view, folder)
            error = None if files else "it has made nothing"
        except (CorruptArtifactError, ObjectStoreError) as fault:
            error = str(fault)
    elif view.error:
        error = f"{view.error['code']}: {view.error['message']}"
    else:
        error = "not over in time; is a worker running? (`presswork doctor`)"
    ended = view.finished_at
    return Trial(
        kind=view.kind,
        model=model,
        job_id=view.id,
        status=view.status.value,
        seconds=round((ended - view.created_at).total_seconds(), 1) if ended else 0,
        media_types=[artifact.media_type for artifact in view.artifacts],
        size_bytes=sum(artifact.size_bytes for artifact in view.artifacts),
        files=[str(file) for file in files],
        error=error,
    )


def _table(trials: Sequence[Trial]) -> str:
    rows = [("kind", "model", "status", "seconds", "media type", "bytes")]
    rows += [
        (
            trial.kind,
            trial.model,
            trial.status,
            f"{trial.seconds:.1f}",
            ", ".join(dict.fromkeys(trial.media_types)) or "-",
            str(trial.size_bytes),
        )
        for trial in trials
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines += [f"{trial.kind}: {trial.error}" for trial in trials if trial.error]
    failed = sum(trial.error is not None for trial in trials)
    lines.append(f"{len(trials) - failed} of {len(trials)} kinds work here")
    return "\n".join(lines)
