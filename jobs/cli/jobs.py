"""``presswork job``."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from jobs import requests, submissions
from jobs.campaigns.recipients import decode
from jobs.cli.output import DataOption, JsonFlag, KeyOption, answer, opened
from jobs.export import export_job
from jobs.problems import BadInputError, Problem, found_in
from jobs.services import Services
from jobs.submissions import JobSubmission
from storage.lifecycle import FINAL, JobStatus
from storage.views import JobView

commands = typer.Typer(no_args_is_help=True, help="Submit single jobs and follow them.")

IdArgument = Annotated[UUID, typer.Argument(help="The job's id.")]

LOOK_S = 0.25


def add_to(app: typer.Typer) -> None:
    """Add ``job``."""
    app.add_typer(commands, name="job")


@commands.command()
def submit(
    file: Annotated[Path, typer.Argument(help="JSON, as the body of POST /v1/jobs.")],
    wait: Annotated[bool, typer.Option("--wait", help="Until it is over.")] = False,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Submit one job."""
    submission = read_submission(file)
    with opened(data) as (services, tenant_id):
        with found_in(str(file)):
            job_id = submissions.submit_job(services, tenant_id, submission, idempotency_key=key)
        if wait:
            _wait(services, tenant_id, job_id)
        view = requests.job(services, tenant_id, job_id)
    answer(view, as_json=as_json, text=job_summary(view) if wait else str(job_id))
    if wait and view.status is not JobStatus.SUCCEEDED:
        raise typer.Exit(1)


def read_submission(path: Path) -> JobSubmission:
    """The job in a JSON file.

    Raises:
        BadInputError: naming the file and each field that is wrong.
    """
    name = str(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadInputError(Problem(f"cannot be read: {error.strerror}", name)) from error
    with found_in(name):
        return submissions.parse_job(decode(raw, name), name)


def _change(
    change: Callable[[Services, UUID, UUID], object],
    job_id: UUID,
    data: Path | None,
    *,
    as_json: bool,
) -> None:
    """Change a job, and show what it is now."""
    with opened(data) as (services, tenant_id):
        change(services, tenant_id, job_id)
        view = requests.job(services, tenant_id, job_id)
    answer(view, as_json=as_json, text=job_summary(view))


def _wait(services: Services, tenant_id: UUID, job_id: UUID) -> None:
    while requests.job(services, tenant_id, job_id).status not in FINAL:
        time.sleep(LOOK_S)


@commands.command()
def status(job_id: IdArgument, data: DataOption = None, as_json: JsonFlag = False) -> None:
    """Show one job."""
    with opened(data) as (services, tenant_id):
        view = requests.job(services, tenant_id, job_id)
    answer(view, as_json=as_json, text=job_summary(view))


@commands.command()
def cancel(job_id: IdArgument, data: DataOption = None, as_json: JsonFlag = False) -> None:
    """Cancel a job; one that is running stops between two steps."""
    _change(requests.cancel_job, job_id, data, as_json=as_json)


@commands.command()
def pause(job_id: IdArgument, data: DataOption = None, as_json: JsonFlag = False) -> None:
    """Pause a single job; a running training stops at its next step, anything else just ends."""
    _change(requests.pause_job, job_id, data, as_json=as_json)


@commands.command()
def resume(job_id: IdArgument, data: DataOption = None, as_json: JsonFlag = False) -> None:
    """Queue a paused job again; a training goes on from where it stopped."""
    _change(requests.resume_job, job_id, data, as_json=as_json)


@commands.command()
def retry(job_id: IdArgument, data: DataOption = None, as_json: JsonFlag = False) -> None:
    """Queue a failed or cancelled job again; what ended because of it waits for it once more."""
    _change(requests.retry_job, job_id, data, as_json=as_json)


@commands.command()
def fetch(
    job_id: IdArgument,
    out: Annotated[Path, typer.Option("--out", file_okay=False, help="The folder to write to.")],
    data: DataOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Fetch what a job has made, checked against the recorded sha256."""
    with opened(data) as (services, tenant_id):
        view = requests.job(services, tenant_id, job_id)
        written = export_job(services, view, out)
    text = "\n".join(map(str, written)) or f"nothing was made: the job is {view.status.value}"
    answer({"files": written}, as_json=as_json, text=text)
    if not written:
        raise typer.Exit(1)


def job_summary(view: JobView) -> str:
    """The job in a few lines."""
    status = view.status.value + (f" ({view.wait_reason})" if view.wait_reason else "")
    text = f"{view.id}: {view.kind}, {status}, attempt {view.attempts}"
    if view.status is JobStatus.RUNNING:
        text += ", to be cancelled" if view.cancel_requested else ""
        text += ", to be paused" if view.pause_requested else ""
    if view.error:
        text += f"\n  {view.error['code']}: {view.error['message']}"
    for need in view.needs:
        text += f"\n  needs {need}"
    for artifact in view.artifacts:
        text += f"\n  {artifact.object_key} ({artifact.size_bytes} bytes, {artifact.sha256})"
    return text
