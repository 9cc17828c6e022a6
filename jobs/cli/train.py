"""``presswork train``."""

from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from jobs import events, requests
from jobs.cli import train_compare, train_submit, watching
from jobs.cli.jobs import job_summary
from jobs.cli.output import DataOption, JsonFlag, answer, notes, opened
from storage.lifecycle import JobStatus

commands = typer.Typer(no_args_is_help=True, help="Train models and follow it.")

IdArgument = Annotated[UUID, typer.Argument(help="The job's id.")]

INTERRUPTED = 130
"""The exit code of what was ended by Ctrl-C."""


def add_to(app: typer.Typer) -> None:
    """Add ``train``."""
    train_submit.add_to(commands)
    train_compare.add_to(commands)
    app.add_typer(commands, name="train")


@commands.command()
def watch(
    job_id: IdArgument,
    data: DataOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON per event.")] = False,
) -> None:
    """Follow a training until it is over; Ctrl-C ends the watching alone."""
    with opened(data) as (services, tenant_id):
        try:
            watching.watch(events.follow(services, tenant_id, job_id), as_json=as_json)
        except KeyboardInterrupt:
            notes.print("the training goes on")
            raise typer.Exit(INTERRUPTED) from None
        view = requests.job(services, tenant_id, job_id)
    if not as_json:
        typer.echo(job_summary(view))
    if view.status is not JobStatus.SUCCEEDED:
        raise typer.Exit(1)


@commands.command()
def logs(
    job_id: IdArgument,
    out: Annotated[Path, typer.Option("--out", file_okay=False, help="The folder to write to.")],
    data: DataOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Fetch a training's logs for TensorBoard, as they were at its last checkpoint."""
    with opened(data) as (services, tenant_id):
        written = events.fetch_logs(services, tenant_id, job_id, out)
    text = "\n".join(map(str, written)) or "there are none yet: the first come with a checkpoint"
    answer({"files": written}, as_json=as_json, text=text)
    if not written:
        raise typer.Exit(1)
