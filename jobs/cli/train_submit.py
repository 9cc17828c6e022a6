"""``presswork train submit``, ``estimate``, ``continue`` and ``list``."""

from collections import deque
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from jobs import events, requests
from jobs.campaigns.document import Marks
from jobs.cli import watching
from jobs.cli.jobs import job_summary
from jobs.cli.output import DataOption, JsonFlag, KeyOption, answer, notes, opened
from jobs.datasets import reading
from jobs.registry.choice import USE_SAYS, Use
from jobs.services import Services
from jobs.trainings import continuing, estimates, file, recipes, submitting
from jobs.trainings.file import Recipe
from jobs.trainings.submitting import Checked
from storage import trainings
from storage.lifecycle import JobStatus
from storage.trainings import TrainingJob

NOTED_PICTURES = 100
"""How many are looked at between two notes."""

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The recipe, a YAML file.")]
SourceOption = Annotated[
    str | None,
    typer.Option(help=f"Where the dataset's files are, instead of its source: {reading.FORMS}."),
]
NameOption = Annotated[
    str | None, typer.Option(help="What jobs will call it, instead of the recipe's name.")
]
UseOption = Annotated[Use, typer.Option(help=USE_SAYS)]
PriorityOption = Annotated[int, typer.Option(min=-100, max=100, help="Lower numbers run first.")]
WaitFlag = Annotated[bool, typer.Option("--wait", help="Until it is over.")]


@dataclass(frozen=True)
class Shown:
    """A training in a list. ``makes`` is what the model or adapter is called.

    ``step`` of ``steps`` are those of all its parts, ``eta_s`` the seconds up to its end, as it has
    told last; None: it has told nothing yet.
    """

    id: UUID
    kind: str
    makes: str
    status: JobStatus
    step: int | None
    steps: int
    eta_s: float | None
    error: dict[str, Any] | None
    created_at: datetime
    finished_at: datetime | None

    @classmethod
    def of(cls, job: TrainingJob) -> "Shown":
        """As it is now."""
        told = job.progress or {}
        return cls(
            id=job.id,
            kind=job.kind,
            makes=job.request["name"],
            status=job.status,
            step=told.get("step"),
            steps=told.get("steps", job.request["steps"]),
            eta_s=told.get("eta_s") if job.status is JobStatus.RUNNING else None,
            error=job.error,
            created_at=job.created_at,
            finished_at=job.finished_at,
        )

    def __str__(self) -> str:
        text = f"{self.id}: {self.kind} {self.makes}, {self.status.value}, "
        text += f"{self.steps} steps" if self.step is None else f"step {self.step} of {self.steps}"
        if self.eta_s is not None:
            text += f", {estimates.duration(self.eta_s)} left"
        return f"{text}\n  {self.error['code']}: {self.error['message']}" if self.error else text


def add_to(commands: typer.Typer) -> None:
    """Add them."""
    commands.command()(submit)
    commands.command()(estimate)
    commands.command("continue")(continue_)
    commands.command("list")(list_)


def submit(
    path: FileArgument,
    source: SourceOption = None,
    name: NameOption = None,
    use: UseOption = "commercial",
    priority: PriorityOption = 0,
    wait: WaitFlag = False,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Submit the training of a recipe; its dataset is added first if it is not there yet."""
    recipe = file.load(path).named(name)
    with opened(data) as (services, tenant_id):
        checked = recipes.checked(
            services,
            tenant_id,
            recipe,
            use,
            source=source,
            idempotency_key=key,
            progress=_noted,
        )
        job_id = submitting.submit(
            services, tenant_id, checked, priority=priority, idempotency_key=key
        )
        _told(services, tenant_id, job_id, checked, wait=wait, as_json=as_json)


def estimate(
    path: FileArgument,
    source: SourceOption = None,
    use: UseOption = "commercial",
    data: DataOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Say what the training of a recipe would take; nothing is kept."""
    recipe = file.load(path)
    with opened(data) as (services, tenant_id):
        checked = recipes.looked_at(
            services, tenant_id, recipe, use, source=source, progress=_noted
        )
    answer(checked.estimate, as_json=as_json, text=str(checked.estimate))


def continue_(
    job_id: Annotated[UUID, typer.Argument(metavar="JOB", help="A training that has succeeded.")],
    steps: Annotated[int, typer.Option(help="In all, with those that it has made.")],
    name: Annotated[str, typer.Option(help="What jobs will call what comes out.")],
    use: UseOption = "commercial",
    priority: PriorityOption = 0,
    wait: WaitFlag = False,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Go on from the end of a training, with the same request and more steps."""
    with opened(data) as (services, tenant_id):
        with services.engine.begin() as connection:
            kind, request = continuing.request_for(
                connection, tenant_id, job_id, {"steps": steps, "name": name}
            )
        recipe = Recipe(kind, request, None, Marks())
        checked = recipes.checked(services, tenant_id, recipe, use, idempotency_key=key)
        new_id = submitting.submit(
            services, tenant_id, checked, priority=priority, idempotency_key=key
        )
        _told(services, tenant_id, new_id, checked, wait=wait, as_json=as_json)


def list_(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The newest of them.")] = 50,
    data: DataOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List the trainings, newest first."""
    with opened(data) as (services, tenant_id), services.engine.begin() as connection:
        found = [Shown.of(job) for job in trainings.every(connection, tenant_id, limit=limit)]
    answer(found, as_json=as_json, text="\n".join(map(str, found)) or "no trainings yet")


def _told(
    services: Services,
    tenant_id: UUID,
    job_id: UUID,
    checked: Checked,
    *,
    wait: bool,
    as_json: bool,
) -> None:
    """Say which job it is and what it will take; with ``wait``, what it tells up to its end."""
    if not as_json:
        typer.echo(str(job_id))
        notes.print(str(checked.estimate), markup=False, highlight=False, soft_wrap=True)
    if wait:
        courses = events.follow(services, tenant_id, job_id)
        if as_json:  # one document, so nothing on the way
            deque(courses, maxlen=0)
        else:
            watching.watch(courses, as_json=False)
    view = requests.job(services, tenant_id, job_id)
    if as_json:
        answer({**vars(view), "estimate": checked.estimate}, as_json=True, text="")
    elif wait:
        typer.echo(job_summary(view))
    if wait and view.status is not JobStatus.SUCCEEDED:
        raise typer.Exit(1)


def _noted(done: int, total: int) -> None:
    if done % NOTED_PICTURES == 0 and done < total:
        notes.print(f"{done} of {total} pictures have been looked at")
