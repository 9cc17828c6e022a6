"""``/v1/workers``: which workers there are and how they are, for administrators."""

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from jobs.api.access import Admin, Opened
from jobs.doctor import WORKER_SEEN_S
from storage import models, workers

router = APIRouter(prefix="/v1/workers", tags=["workers"])


class Worker(BaseModel):
    """A worker as it was last seen. Memory is the device's; on a CPU the process's and its limit.

    ``models`` are without those of other tenants. ``outputs_per_s`` is over the last minute,
    ``counters`` count since the process was started.
    """

    model_config = ConfigDict(from_attributes=True)

    name: str
    pool: str
    device: str
    is_up: bool
    started_at: datetime
    seen_at: datetime
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    models: list[str]
    batch_key: str | None
    outputs_per_s: float | None
    counters: dict[str, int]


@router.get("")
def list_workers(caller: Admin, services: Opened) -> list[Worker]:
    """All workers, also those that ended without a word."""
    found = workers.listed(services.engine, within_s=WORKER_SEEN_S)
    with services.engine.begin() as connection:
        known = {card.name for card in models.list_models(connection, caller.tenant_id)}
    bodies = [Worker.model_validate(worker) for worker in found]
    for body in bodies:
        # A slash is in the names of tenants' own alone.
        body.models = [name for name in body.models if name in known or "/" not in name]
    return bodies
