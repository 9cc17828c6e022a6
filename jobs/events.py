"""What a training tells of its course: the names of its events, and what its tenant may read."""

import time
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID

from jobs.problems import NotFoundError
from jobs.services import Services
from storage import job_events
from storage.job_events import Course
from storage.lifecycle import FINAL
from storage.objects import training_prefix

PAGE = 500
LOOK_S = 1.0
"""How often whoever watches looks for more."""


class EventName(StrEnum):
    """What may happen in a training, and what each event's ``data`` holds.

    ``step`` is how many steps had been made by then, ``steps`` how many there will be.
    """

    STARTED = "started"
    """``step``, ``steps``, ``device``, and ``resumed``: whether it goes on from a checkpoint."""
    PROGRESS = "progress"
    """``step``, ``steps``, ``loss``, ``learning_rate``, ``steps_per_s``, ``eta_s`` (seconds up to
    the end), and other numbers by name."""
    CHECKPOINT = "checkpoint"
    """``step``: from here it can go on."""
    EVALUATED = "evaluated"
    """``step``, and what was measured on held-out data, as numbers by name."""
    SAMPLE = "sample"
    """``step``, ``caption`` and ``files``: keys of objects below `training_prefix`."""
    YIELDED = "yielded"
    """``step`` and ``why``: it gave its device back, and goes on later."""
    ENDED = "ended"
    """``step`` and ``why``: no further step is made."""


_NOT_MEASURED = frozenset({"step", "steps", "eta_s"})


def numbers(data: Mapping[str, Any]) -> dict[str, float]:
    """What an event's data says that was measured, by name."""
    return {
        name: float(value)
        for name, value in data.items()
        if name not in _NOT_MEASURED
        and isinstance(value, int | float)
        and not isinstance(value, bool)
    }


def look(services: Services, tenant_id: UUID, job_id: UUID, after: int, limit: int) -> Course:
    """Events of the tenant's job from behind the id ``after``, and its status.

    Raises:
        NotFoundError: there is no such job, or it is another tenant's.
    """
    with services.engine.begin() as connection:
        course = job_events.after(connection, tenant_id, job_id, after, limit)
    if course is None:
        raise NotFoundError(f"there is no job {job_id}")
    return course


def follow(services: Services, tenant_id: UUID, job_id: UUID) -> Iterator[Course]:
    """All events from the first one on, a part at a time, up to the end of the job.

    While nothing happens, empty parts tell the status.

    Raises:
        NotFoundError: as `look`.
    """
    after = 0
    while True:
        course = look(services, tenant_id, job_id, after, PAGE)
        yield course
        if course.events:
            after = course.events[-1].id
        if len(course.events) == PAGE:
            continue
        if course.status in FINAL:
            return
        time.sleep(LOOK_S)


def file(services: Services, tenant_id: UUID, job_id: UUID, event_id: int, number: int) -> str:
    """The key of an event's file with that number, from 0.

    Raises:
        NotFoundError: there is none.
    """
    with services.engine.begin() as connection:
        event = job_events.find(connection, tenant_id, job_id, event_id)
    files = event.data.get("files", []) if event else []
    if number >= len(files) or not str(files[number]).startswith(training_prefix(job_id)):
        raise NotFoundError(f"event {event_id} of job {job_id} has no file {number}")
    return str(files[number])


def logs_prefix(job_id: UUID) -> str:
    """Below which a training's TensorBoard logs lie, a file per attempt."""
    return f"{training_prefix(job_id)}logs/"


def fetch_logs(services: Services, tenant_id: UUID, job_id: UUID, folder: Path) -> list[Path]:
    """Write a training's TensorBoard logs to ``folder``, as they are now, and give the files.

    Raises:
        NotFoundError: as `look`.
    """
    look(services, tenant_id, job_id, 0, 1)
    prefix = logs_prefix(job_id)
    written = []
    for key in services.objects.keys(prefix):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / key.removeprefix(prefix)
        # The rename makes the file whole or absent, also where a TensorBoard is looking.
        unfinished = path.with_name(f".{path.name}.part")
        unfinished.write_bytes(services.objects.get(key))
        unfinished.replace(path)
        written.append(path)
    return written
