"""What the tests about trainings that go on share: one in the hands of a worker, and its events."""

from typing import Any
from uuid import UUID

from sqlalchemy import Engine

from jobs.events import EventName
from storage import job_events
from storage.job_events import JobEvent, NewEvent
from tests.integration.ledger_cases import ids, submit_jobs, take_some

DATA: dict[str, dict[str, Any]] = {
    EventName.STARTED: {"step": 0, "steps": 4, "device": "cpu", "resumed": False},
    EventName.PROGRESS: {
        "step": 2,
        "steps": 4,
        "loss": 0.5,
        "learning_rate": 1e-3,
        "steps_per_s": 2.0,
        "eta_s": 3661.0,
    },
    EventName.CHECKPOINT: {"step": 2},
    EventName.EVALUATED: {"step": 2, "distance": 7.25},
    EventName.YIELDED: {"step": 2, "why": "others wait"},
    EventName.ENDED: {"step": 3, "why": "no improvement"},
}
"""An event of every name but sample, whose files are of a job."""


def begun(engine: Engine, tenant_id: UUID) -> tuple[UUID, UUID]:
    """A job that is running, and its claim."""
    submit_jobs(engine, tenant_id, 1)
    batch = take_some(engine)
    [job_id] = ids(batch)
    return job_id, batch.claim_id


def tell(engine: Engine, job_id: UUID, claim_id: UUID, *names: str) -> None:
    """Have a training tell of such events."""
    events = [NewEvent(name, DATA[name]) for name in names]
    assert job_events.add(engine, claim_id, job_id, events)


def told(engine: Engine, tenant_id: UUID, job_id: UUID) -> list[JobEvent]:
    """All that a training has told."""
    with engine.begin() as connection:
        course = job_events.after(connection, tenant_id, job_id, 0, 10_000)
    assert course
    return course.events
