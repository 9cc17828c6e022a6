"""``presswork campaign``."""

from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from jobs import export as exports
from jobs import requests, submissions
from jobs.campaigns import file as campaign_file
from jobs.cli.output import DataOption, JsonFlag, KeyOption, answer, notes, opened
from jobs.cli.progress import summary, watch
from jobs.export import Export
from storage import views
from storage.lifecycle import JobStatus
from storage.views import CampaignView

commands = typer.Typer(no_args_is_help=True, help="Submit campaigns and follow them.")

FileArgument = Annotated[Path, typer.Argument(help="The campaign's YAML file.")]
IdArgument = Annotated[UUID, typer.Argument(help="The campaign's id.")]
OutOption = Annotated[Path, typer.Option("--out", file_okay=False, help="The folder to write to.")]


def add_to(app: typer.Typer) -> None:
    """Add ``campaign``."""
    app.add_typer(commands, name="campaign")


@commands.command()
def submit(
    file: FileArgument,
    wait: Annotated[bool, typer.Option("--wait", help="Until it is over.")] = False,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Check a campaign with all its recipients and submit it."""
    spec = campaign_file.load(file)
    with opened(data) as (services, tenant_id):
        campaign_id = submissions.submit_campaign_file(
            services, tenant_id, file, spec, idempotency_key=key
        )
        if wait:
            notes.print(f"campaign {campaign_id}")
            watch(services, tenant_id, campaign_id)
        view = requests.campaign(services, tenant_id, campaign_id)
    answer(view, as_json=as_json, text=summary(view) if wait else str(campaign_id))
    if wait:
        exit_for(view)


@commands.command()
def status(campaign_id: IdArgument, data: DataOption = None, as_json: JsonFlag = False) -> None:
    """Show how far a campaign is."""
    with opened(data) as (services, tenant_id):
        view = requests.campaign(services, tenant_id, campaign_id)
    answer(view, as_json=as_json, text=summary(view))


@commands.command("list")
def list_(data: DataOption = None, as_json: JsonFlag = False) -> None:
    """List the newest campaigns."""
    with opened(data) as (services, tenant_id), services.engine.begin() as connection:
        found = views.campaigns(connection, tenant_id)
    text = "\n".join(summary(view) for view in found) or "no campaigns yet"
    answer(found, as_json=as_json, text=text)


@commands.command()
def export(
    campaign_id: IdArgument, out: OutOption, data: DataOption = None, as_json: JsonFlag = False
) -> None:
    """Fetch what a campaign has made so far: files, manifest.jsonl, a contact sheet."""
    with opened(data) as (services, tenant_id):
        view = requests.campaign(services, tenant_id, campaign_id)
        written = exports.export_campaign(services, view, tenant_id, out)
    answer(written, as_json=as_json, text=export_summary(written))


@commands.command()
def cancel(campaign_id: IdArgument, data: DataOption = None, as_json: JsonFlag = False) -> None:
    """Cancel a campaign: nothing more of it starts."""
    with opened(data) as (services, tenant_id):
        requests.cancel_campaign(services, tenant_id, campaign_id)
        view = requests.campaign(services, tenant_id, campaign_id)
    answer(view, as_json=as_json, text=summary(view))


@commands.command()
def reconcile(campaign_id: IdArgument, data: DataOption = None, as_json: JsonFlag = False) -> None:
    """Compare a campaign's counters with its jobs, and mend what has drifted."""
    with opened(data) as (services, tenant_id):
        drift = requests.reconcile_campaign(services, tenant_id, campaign_id)
    lines = [f"{status} was off by {-jobs:+d}" for status, jobs in sorted(drift.items())]
    answer({"drift": drift}, as_json=as_json, text="\n".join(lines) or "the counters are right")


def export_summary(written: Export) -> str:
    """Where things are."""
    text = f"{written.files} files of {written.jobs} jobs in {written.folder}/"
    text += f"\n  manifest:      {written.manifest}"
    if written.sheet:
        text += f"\n  contact sheet: {written.sheet}"
    return text


def exit_for(view: CampaignView) -> None:
    """Exit with 1 if not every job has succeeded."""
    if view.counts[JobStatus.SUCCEEDED] < view.jobs:
        raise typer.Exit(1)
