"""A claimed batch on its way through a worker."""

import time
from dataclasses import dataclass, field
from uuid import UUID

from jobs.trainings.requests import TRAININGS
from storage.ledger.claim import Batch
from storage.ledger.finish import Failed, Outcome
from workers.family import Item
from workers.pulse import Held
from workers.reuse import Plan
from workers.sickness import Sickness
from workers.writer import Upload


@dataclass
class Work:
    """A claimed batch on its way: what is to be made, what is being stored, what is decided.

    ``slice`` is the number of the time slice that it was claimed in.
    """

    batch: Batch
    held: Held
    slice: int
    plan: Plan = field(default_factory=lambda: Plan([]))
    uploads: list[tuple[Item, Upload]] = field(default_factory=list)
    outcomes: dict[UUID, Outcome] = field(default_factory=dict)
    started_s: float = field(default_factory=time.monotonic)

    def decide(self, outcome: Outcome) -> None:
        """Keep what became of a job."""
        self.outcomes[outcome.job_id] = outcome

    @property
    def is_training(self) -> bool:
        """Whether it is a training, which no other job shares a batch with."""
        return any(job.kind in TRAININGS for job in self.batch.jobs)

    @property
    def lost_device(self) -> bool:
        """Whether the device failed in it for good."""
        return any(
            isinstance(outcome, Failed) and outcome.code == Sickness.DEVICE_ERROR
            for outcome in self.outcomes.values()
        )
