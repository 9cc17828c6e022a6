"""A training whose worker is killed ends as if nothing had happened."""

from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Engine

from jobs.services import Services
from jobs.standalone import Servers
from jobs.submissions import JobSubmission, submit_job
from storage import models
from storage.ledger import recover
from storage.objects import training_prefix
from tests.integration.batches import jobs
from tests.integration.test_slots import slot_processes, supervisor
from tests.trainings import SCRATCH, add_dataset
from tests.waiting import until
from workers.training.checkpoints import MANIFEST

STEPS = 120
"""So many that there is time to kill it after the first checkpoint."""


def test_bit_by_bit(
    servers: Servers, services: Services, tenant_id: UUID, engine: Engine, tmp_path: Path
) -> None:
    """After ``kill -9`` it goes on from its last checkpoint, and every file has the same digest."""
    (tmp_path / "things").mkdir()
    add_dataset(services, tenant_id, tmp_path / "things")
    environment = {
        **servers.environment,
        "PRESSWORK_CACHE_DIR": str(services.settings.cache_dir),
        "PRESSWORK_IDLE_LOOK_S": "0.5",
        "PRESSWORK_LEASE_S": "3",
        "OMP_NUM_THREADS": "1",  # on a busy machine several wait for each other
    }

    def train(name: str) -> UUID:
        request = {**SCRATCH, "name": name, "steps": STEPS, "checkpoint_every": STEPS // 8}
        return submit_job(services, tenant_id, JobSubmission(kind="train", request=request))

    def has_ended(job_id: UUID) -> bool:
        status, _, error = jobs(engine)[job_id]
        assert error is None
        return status == "succeeded"

    def has_checkpoint(job_id: UUID) -> bool:
        keys = services.objects.keys(f"{training_prefix(job_id)}checkpoints/")
        return any(key.endswith(MANIFEST) for key in keys)

    with supervisor(tmp_path / "supervisor.log", "cpu", environment) as supervising:
        whole = train("whole")
        until(lambda: has_ended(whole), timeout_s=180, what=f"the first; see {tmp_path}")
        killed = train("killed")
        until(lambda: has_checkpoint(killed), what="a checkpoint")
        ((_, child),) = slot_processes(supervising).values()
        child.kill()
        assert jobs(engine)[killed][0] == "running"
        until(lambda: recover.recover_claim(engine), what="the end of its lease")
        until(lambda: has_ended(killed), timeout_s=180, what=f"the second; see {tmp_path}")
    assert jobs(engine)[killed] == ("succeeded", 2, None)
    assert _manifest(engine, "default/killed") == _manifest(engine, "default/whole")


def _manifest(engine: Engine, name: str) -> Any:
    with engine.begin() as connection:
        card = models.find(connection, name)
    assert card
    assert card.manifest
    # The card for readers has the model's name in it.
    return {path: entry for path, entry in card.manifest.items() if path != "README.md"}
