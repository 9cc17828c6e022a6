"""``presswork schedule``."""

from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from jobs.cli.output import DataOption, JsonFlag, answer, opened
from jobs.schedules import file as schedule_file
from jobs.schedules import requests
from jobs.schedules.requests import Upcoming
from storage.schedule_runs import RunView
from storage.schedules import ScheduleView

commands = typer.Typer(no_args_is_help=True, help="Start campaigns by the clock.")


def _wanted(text: str) -> UUID | str:
    try:
        return UUID(text)
    except ValueError:
        return text


ScheduleArgument = Annotated[
    str, typer.Argument(help="The schedule's name or id.", metavar="SCHEDULE")
]


def add_to(app: typer.Typer) -> None:
    """Add ``schedule``."""
    app.add_typer(commands, name="schedule")


@commands.command()
def add(
    file: Annotated[Path, typer.Argument(help="The schedule's YAML file.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="In the place of the schedule of the same name.")
    ] = False,
    data: DataOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Check a schedule with its campaign and add it."""
    spec = schedule_file.load(file)
    store = requests.put if replace else requests.add
    with opened(data) as (services, tenant_id):
        view = store(services, tenant_id, spec)
    answer(view, as_json=as_json, text=summary(view))


@commands.command("list")
def list_(data: DataOption = None, as_json: JsonFlag = False) -> None:
    """List the schedules."""
    with opened(data) as (services, tenant_id):
        found = requests.every(services, tenant_id)
    text = "\n".join(summary(view) for view in found) or "no schedules yet"
    answer(found, as_json=as_json, text=text)


@commands.command()
def pause(schedule: ScheduleArgument, data: DataOption = None, as_json: JsonFlag = False) -> None:
    """Let a schedule fire no more until it is resumed."""
    with opened(data) as (services, tenant_id):
        view = requests.pause(services, tenant_id, _wanted(schedule))
    answer(view, as_json=as_json, text=summary(view))


@commands.command()
def resume(schedule: ScheduleArgument, data: DataOption = None, as_json: JsonFlag = False) -> None:
    """Let a schedule fire again from now on."""
    with opened(data) as (services, tenant_id):
        view = requests.resume(services, tenant_id, _wanted(schedule))
    answer(view, as_json=as_json, text=summary(view))


@commands.command()
def run_now(schedule: ScheduleArgument, data: DataOption = None, as_json: JsonFlag = False) -> None:
    """Have a run start at once, whatever window, blackout dates and pause say."""
    with opened(data) as (services, tenant_id):
        view = requests.run_now(services, tenant_id, _wanted(schedule))
    answer(view, as_json=as_json, text=run_summary(view))


@commands.command("next")
def next_(
    schedule: ScheduleArgument,
    count: Annotated[int, typer.Option("--count", min=1, max=100, help="How many.")] = 5,
    data: DataOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show when a schedule fires next, in its own time zone."""
    with opened(data) as (services, tenant_id):
        found = requests.upcoming(services, tenant_id, _wanted(schedule), count)
    text = "\n".join(map(_upcoming_summary, found)) or "never, or not before it is resumed"
    answer(found, as_json=as_json, text=text)


@commands.command()
def history(
    schedule: ScheduleArgument,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many.")] = 20,
    data: DataOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what became of a schedule's fires, the newest first."""
    with opened(data) as (services, tenant_id):
        found = requests.history(services, tenant_id, _wanted(schedule), limit=limit)
    answer(found, as_json=as_json, text="\n".join(map(run_summary, found)) or "no runs yet")


@commands.command()
def remove(schedule: ScheduleArgument, data: DataOption = None, as_json: JsonFlag = False) -> None:
    """Delete a schedule with its history; the campaigns that it has started stay."""
    with opened(data) as (services, tenant_id):
        requests.remove(services, tenant_id, _wanted(schedule))
    answer({"removed": schedule}, as_json=as_json, text=f"removed {schedule}")


def summary(view: ScheduleView) -> str:
    """The schedule in a line."""
    text = f"{view.name} ({view.id}): {view.cron} in {view.timezone}"
    if view.window:
        text += f", window {view.window}"
    if view.paused_at:
        return f"{text}, paused"
    return f"{text}, next {view.next_fire_at.isoformat() if view.next_fire_at else 'never'}"


def run_summary(view: RunView) -> str:
    """The run in a line or two."""
    text = f"{view.fire_time.isoformat()}: {view.status.value}"
    if view.campaign_id:
        text += f", campaign {view.campaign_id}"
    if view.reason:
        text += f"\n  {view.reason['code']}: {view.reason['message']}"
    return text


def _upcoming_summary(upcoming: Upcoming) -> str:
    text = upcoming.local_time.isoformat()
    if upcoming.skipped:
        text += ", skipped: a blackout date"
    if upcoming.opens_at and upcoming.closes_at:
        zone = upcoming.local_time.tzinfo
        opens, closes = upcoming.opens_at.astimezone(zone), upcoming.closes_at.astimezone(zone)
        text += f", jobs start from {opens.isoformat()} to {closes.isoformat()}"
    return text
