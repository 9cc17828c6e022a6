"""One batch from claim to finish: claim -> load -> generate -> store -> finish."""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from uuid import UUID

from sqlalchemy import Engine
from sqlalchemy.exc import InterfaceError, OperationalError

from jobs.settings import Settings
from storage.ledger import claim, finish
from storage.ledger.claim import Batch
from storage.ledger.finish import Failed, Outcome, Released, Succeeded
from storage.lifecycle import JobStatus
from storage.objects import ObjectStore, ObjectStoreError
from workers.family import Device, Item, JobError
from workers.generation import BatchContext, make
from workers.items import items_of
from workers.pulse import Held, Pulse
from workers.resident import Residency
from workers.stopping import wait
from workers.writer import Writer

_log = logging.getLogger(__name__)

LONGEST_PAUSE_S = 60.0


class Runner:
    """Runs batches on one device, one at a time."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        objects: ObjectStore,
        pulse: Pulse,
        device: Device,
        *,
        name: str,
        stopping: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._pulse = pulse
        self._name = name
        self._stopping = stopping
        self._residency = Residency(engine, settings.cache_dir, device)
        self._writer = Writer(objects, {"worker": name, "device": device.type}, stopping)
        self._batch_key: str | None = None
        self._key_since = 0.0
        self.pause_s = 0.0
        """How long to claim nothing: this worker may be sick, and must not eat the queue."""

    def run_next(self) -> bool:
        """Claim a batch and see it through; False: there was nothing to do."""
        stay = time.monotonic() - self._key_since < self._settings.slice_s
        batch = claim.claim(
            self._engine,
            worker=self._name,
            pool=self._settings.pool,
            size=self._settings.batch_size,
            lease_s=self._settings.lease_s,
            # The model of this key is loaded. But after a while it is another key's turn.
            prefer=self._batch_key if stay else None,
            after=None if stay else self._batch_key,
        )
        if batch is None:
            return False
        if batch.batch_key != self._batch_key or not stay:
            self._batch_key, self._key_since = batch.batch_key, time.monotonic()
        with self._pulse.hold(batch.claim_id) as held:
            self._run(batch, held)
        return True

    def close(self) -> None:
        """Give the device and the threads back."""
        self._writer.close()
        self._residency.clear()

    def _run(self, batch: Batch, held: Held) -> None:
        started = time.monotonic()
        outcomes: dict[UUID, Outcome] = {}
        try:
            # One by one: what was decided before an error is kept.
            for outcome in self._outcomes(batch, held):
                outcomes[outcome.job_id] = outcome
        except Exception as error:  # noqa: BLE001 (ours; it must not leave the batch hanging)
            _log.exception("claim %s failed", batch.claim_id)
            message = f"an unexpected {type(error).__name__}; the worker's log has it"
            for job in batch.jobs:
                outcomes.setdefault(job.id, Failed(job.id, "internal", message, retry=True))
        if held.lost:
            _log.warning("claim %s: lost the lease, its jobs are others' now", batch.claim_id)
            return
        self._note_health(outcomes.values())
        for job in batch.jobs:  # what a stop or a cancel has left out
            outcomes.setdefault(job.id, Released(job.id))
        statuses = self._finish(batch, list(outcomes.values()))
        _log.info(
            "claim %s: %d jobs in %.2f s: %s",
            batch.claim_id,
            len(batch.jobs),
            time.monotonic() - started,
            ", ".join(sorted(statuses.values())) or "none was ours any more",
        )

    def _outcomes(self, batch: Batch, held: Held) -> Iterator[Outcome]:
        """What became of each job; of those that a stop or a cancel left out, nothing."""
        items: list[Item] = []
        for item in items_of(batch):
            if isinstance(item, Failed):
                yield item
            else:
                items.append(item)
        if not items:
            return
        try:
            resident = self._residency.get(items[0].request.model)
        except Exception as error:  # noqa: BLE001 (libraries raise what they like at a bad model)
            _log.exception("claim %s: the model could not be loaded", batch.claim_id)
            message = f"the model could not be loaded ({type(error).__name__}); the log has it"
            for item in items:
                yield Failed(item.job_id, "model_not_loaded", message, retry=True)
            return
        stored = []
        for item, made in make(resident, items, BatchContext(held, self._stopping)):
            if isinstance(made, JobError):
                yield Failed(item.job_id, made.code, made.message, made.retry)
            else:
                stored.append((item, self._writer.store(batch.claim_id, item.job_id, made)))
        for item, upload in stored:
            try:
                yield Succeeded(item.job_id, upload.result())
            except ObjectStoreError as error:
                # No fault of the job's: it goes back, and costs it no attempt.
                _log.warning("job %s: could not be stored: %s", item.job_id, error)
                yield Released(item.job_id)

    def _note_health(self, outcomes: Collection[Outcome]) -> None:
        """Pause, longer each time, after batches in which nothing succeeded but might have."""
        if any(isinstance(outcome, Succeeded) for outcome in outcomes):
            self.pause_s = 0.0
        elif any(isinstance(o, Released) or (isinstance(o, Failed) and o.retry) for o in outcomes):
            self.pause_s = min(max(self.pause_s * 2, 1.0), LONGEST_PAUSE_S)

    def _finish(self, batch: Batch, outcomes: Sequence[Outcome]) -> dict[UUID, JobStatus]:
        """Record the outcomes, however long the database is away.

        That is safe at any time: what is no longer ours is refused.
        """
        while True:
            try:
                return finish.finish(self._engine, batch.claim_id, outcomes)
            except (OperationalError, InterfaceError) as error:
                if self._stopping():
                    raise
                _log.warning("claim %s: not finished yet (%s)", batch.claim_id, error.orig)
                wait(1, self._stopping)
