"""Watching a training in the terminal: a bar with its numbers, or a line per event."""

import json
from collections.abc import Iterable
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from jobs.cli.output import answer_line
from jobs.events import EventName, numbers
from storage.job_events import Course, JobEvent


def watch(courses: Iterable[Course], *, as_json: bool) -> None:
    """Show events as they come, up to the end of ``courses``."""
    console = Console()
    if as_json:
        _write_json(courses)
    elif console.is_terminal:
        _show(courses, console)
    else:
        for course in courses:
            for event in course.events:
                typer.echo(line(event))


def _write_json(courses: Iterable[Course]) -> None:
    for course in courses:
        for event in course.events:
            answer_line(event)
    answer_line({"name": "end", "data": {"status": course.status}})


def _show(courses: Iterable[Course], console: Console) -> None:
    """A bar that stays at the bottom, and above it all events but progress."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[facts]}", markup=False),
        console=console,
    ) as bar:
        task = bar.add_task("", total=None, facts="")
        for course in courses:
            bar.update(task, description=course.status.value)
            for event in course.events:
                if "step" in event.data and "steps" in event.data:
                    bar.update(task, completed=event.data["step"], total=event.data["steps"])
                if event.name == EventName.PROGRESS:
                    bar.update(task, facts=_words(event.name, event.data))
                else:
                    bar.console.print(line(event), markup=False, highlight=False, soft_wrap=True)


def line(event: JobEvent) -> str:
    """The event in a line."""
    return f"{event.at.isoformat(timespec='seconds')} {_words(event.name, event.data)}"


def _words(name: str, data: dict[str, Any]) -> str:
    at = f"at step {data.get('step')}"
    match name:
        case EventName.STARTED:
            verb = "goes on" if data.get("resumed") else "starts"
            where = f" on {data['device']}" if data.get("device") else ""
            words = f"{verb} {at} of {data.get('steps')}{where}"
        case EventName.PROGRESS:
            words = f"step {data.get('step')} of {data.get('steps')}: {_facts(data)}"
        case EventName.CHECKPOINT:
            words = f"checkpoint {at}"
        case EventName.EVALUATED:
            words = f"evaluated {at}: {_facts(data)}"
        case EventName.SAMPLE:
            # As JSON, since a caption may hold what a terminal takes for an order.
            words = f"sample {at}: {json.dumps(data.get('caption'))}"
        case EventName.YIELDED:
            words = f"gives way {at}: {data.get('why')}"
        case EventName.ENDED:
            words = f"ends {at}: {data.get('why')}"
        case _:
            words = f"{name} {json.dumps(data)}"
    return words


def _facts(data: dict[str, Any]) -> str:
    """The numbers of an event: loss 0.1234, learning_rate 0.001, 3.2 steps/s, 0:04:10 left."""
    measured = numbers(data)
    rate = measured.pop("steps_per_s", None)
    facts = [f"{name} {number:.4g}" for name, number in measured.items()]
    if rate is not None:
        facts.append(f"{rate:.3g} steps/s")
    if isinstance(left_s := data.get("eta_s"), int | float):
        minutes, seconds = divmod(round(left_s), 60)
        facts.append(f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d} left")
    return ", ".join(facts)
