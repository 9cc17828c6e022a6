"""Going on from the end of another training: which one, and what must be as it was there."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from jobs.problems import NotFoundError, Problem
from jobs.trainings.requests import TRAININGS, Training
from storage import trainings
from storage.lifecycle import JobStatus
from storage.trainings import TrainingJob

_SAME: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "finetune": ("model", "rank", "alpha", "dataset", "held_out", "seed", "optimizer"),
        "train": ("architecture", "size", "dataset", "held_out", "seed", "optimizer"),
    }
)
"""By kind: what decides which tensors there are, what they mean, and which items were held out."""


def request_for(
    connection: Connection, tenant_id: UUID, job_id: UUID, changes: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """The kind, and the request of the training that goes on where that one has ended.

    Raises:
        NotFoundError: there is no such training.
    """
    other = trainings.find(connection, tenant_id, job_id)
    if other is None:
        raise NotFoundError(f"there is no training {job_id}")
    return other.kind, {**other.request, "continue_from": str(job_id), **changes}


def continued(
    connection: Connection, tenant_id: UUID, kind: str, request: Training
) -> tuple[Training, Training | None, list[Problem]]:
    """The request with what it leaves open as the other one has it; that one's; what is wrong.

    The other one is None if there is none to go on from.
    """
    if request.continue_from is None:
        return request, None, []
    other = trainings.find(connection, tenant_id, request.continue_from)
    wrong = _wrong_job(other, request.continue_from, kind)
    if wrong:
        return request, None, [Problem(wrong, field="continue_from")]
    assert other
    before: Training = TRAININGS[kind].model_validate(other.request)
    left_open = {
        name: getattr(before, name) for name in _SAME[kind] if getattr(request, name) is None
    }
    request = request.model_copy(update=left_open)
    return request, before, list(_problems(kind, request, before))


def _wrong_job(other: TrainingJob | None, job_id: UUID, kind: str) -> str | None:
    if other is None:
        return f"you have no training {job_id}"
    if other.kind != kind:
        return f"{job_id} is of the kind {other.kind}, and this of {kind}"
    if other.status is not JobStatus.SUCCEEDED:
        hint = ""
        if other.status in (JobStatus.FAILED, JobStatus.CANCELLED):
            hint = "; `presswork job retry` has it go on from its last checkpoint"
        return f"{job_id} has not succeeded: it is {other.status.value}{hint}"
    return None


def _problems(kind: str, request: Training, before: Training) -> Iterator[Problem]:
    for name in _SAME[kind]:
        was, now = getattr(before, name), getattr(request, name)
        if was != now:
            shown = f": {was}, not {now}" if isinstance(was, str | int | float) else ""
            yield Problem(f"must be as in the training that it goes on from{shown}", field=name)
    if (request.ema is None) != (before.ema is None):
        was_kept = "no" if before.ema is None else "an"
        message = f"must be as in the training that it goes on from: {was_kept} average was kept"
        yield Problem(message, field="ema")
    assert before.steps
    if request.steps is None:
        message = f"is required: more than the {before.steps} that were made already"
        yield Problem(message, field="steps")
    elif request.steps <= before.steps:
        message = (
            f"{request.steps} in all: ask for more than the {before.steps} that were made already"
        )
        yield Problem(message, field="steps")
