"""One batch from claim to finish: claim -> load -> generate -> store -> finish."""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from uuid import UUID

from sqlalchemy import Engine
from sqlalchemy.exc import InterfaceError, OperationalError

from jobs.registry.mirror import ModelFilesError
from jobs.settings import Settings
from storage.ledger import claim, finish, needs
from storage.ledger.claim import Batch
from storage.ledger.finish import Failed, Outcome, Released, Succeeded
from storage.lifecycle import JobStatus
from storage.objects import ObjectStore, ObjectStoreError
from workers.family import Device, Item, JobError
from workers.generation import MESSAGE_LENGTH, BatchContext, make
from workers.inputs import Inputs
from workers.items import facts_of, items_of
from workers.memory import Room
from workers.pulse import Held, Pulse
from workers.resident import LicenceEndedError, Residency
from workers.sickness import Sickness, released, sickness_of
from workers.stopping import Pause, wait
from workers.writer import Writer

_log = logging.getLogger(__name__)


class DeviceLostError(Exception):
    """The device works no more for this process, only for one that starts anew."""


class Runner:
    """Runs batches on one device, one at a time. ``pause`` is kept, as it was left before."""

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
        pause: Pause | None = None,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._pulse = pulse
        self._name = name
        self._stopping = stopping
        self._residency = Residency(engine, objects, settings.cache_dir, device)
        self._inputs = Inputs(objects, partial(needs.artifacts, engine))
        self._writer = Writer(objects, {"worker": name, "device": device.type}, stopping)
        self._room = Room(engine, device)
        self._batch_key: str | None = None
        self._key_since = 0.0
        self._pause = pause or Pause()
        self._failed: set[UUID] = set()
        """Jobs that might have gone well, since the last one that did."""

    @property
    def pause_s(self) -> float:
        """How long to claim nothing now."""
        return self._pause.seconds

    def run_next(self) -> bool:
        """Claim a batch and see it through; False: there was nothing to do.

        Raises:
            DeviceLostError: the batch has been seen through, but this process can do no other.
        """
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
            self._room.turn_to(batch.batch_key)
        _log.info("claim %s: %d jobs of %s", batch.claim_id, len(batch.jobs), batch.batch_key)
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
            lost = sickness_of(error) is Sickness.DEVICE_ERROR
            code = Sickness.DEVICE_ERROR.value if lost else "internal"
            message = f"an unexpected {type(error).__name__}; the worker's log has it"
            for job in batch.jobs:
                outcomes.setdefault(job.id, Failed(job.id, code, message, retry=True))
        if held.lost:
            _log.warning("claim %s: lost the lease, its jobs are others' now", batch.claim_id)
            # Refused, and by that noted: what was uploaded since the lease was taken is collected.
            self._finish(batch, list(outcomes.values()))
        else:
            self._end(batch, outcomes, started)
        if any(
            isinstance(o, Failed) and o.code == Sickness.DEVICE_ERROR for o in outcomes.values()
        ):
            raise DeviceLostError

    def _end(self, batch: Batch, outcomes: dict[UUID, Outcome], started: float) -> None:
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
        for item in self._inputs.given(batch, items_of(batch)):
            if isinstance(item, Item):
                items.append(item)
            else:
                yield item
        if not items:
            return
        try:
            resident = self._residency.get(items[0].request.model)
            items = [
                replace(item, adapters=self._residency.adapters(item.request.uses))
                for item in items
            ]
        except Exception as error:  # noqa: BLE001 (libraries raise what they like at a bad model)
            yield from self._not_loaded(batch, items, error)
            return
        stored = []
        context = BatchContext(held, self._stopping)
        for item, made in make(resident, items, context, self._room):
            if isinstance(made, JobError):
                yield _not_made(item, made)
            else:
                facts = facts_of(item, resident.card)
                stored.append((item, self._writer.store(batch.claim_id, item.job_id, made, facts)))
        for item, upload in stored:
            try:
                yield Succeeded(item.job_id, self._writer.result(upload))
            except ObjectStoreError as error:
                # No fault of the job's: it goes back, and costs it no attempt.
                _log.warning("job %s: could not be stored: %s", item.job_id, error)
                yield released(item.job_id, sickness_of(error))

    def _not_loaded(
        self, batch: Batch, items: Sequence[Item], error: Exception
    ) -> Iterator[Outcome]:
        sickness = sickness_of(error)
        if sickness is Sickness.DISK_FULL:
            # One line, that says what to do: the traceback tells no more.
            _log.error(
                "claim %s: the disk is full (%s): free some space for %s, or set "
                "PRESSWORK_CACHE_DIR",
                batch.claim_id,
                error,
                self._settings.cache_dir,
            )
            yield from (released(item.job_id, sickness) for item in items)
            return
        if isinstance(error, LicenceEndedError):
            for item in items:
                yield Failed(item.job_id, "licence_ended", str(error), retry=False)
            return
        if isinstance(error, ObjectStoreError):
            # No fault of the jobs': they go back, and it costs them no attempt.
            _log.warning("claim %s: the model could not be fetched: %s", batch.claim_id, error)
            yield from (released(item.job_id, sickness) for item in items)
            return
        _log.error("claim %s: the model could not be loaded", batch.claim_id, exc_info=error)
        lost = sickness is Sickness.DEVICE_ERROR
        code = Sickness.DEVICE_ERROR.value if lost else "model_not_loaded"
        message = f"the model could not be loaded ({type(error).__name__}); the log has it"
        is_models = isinstance(error, ValueError) and not isinstance(error, ModelFilesError)
        if is_models:
            # The family's own words, about the model: no other worker could load it either. Where
            # the files lie on this machine is nobody's business.
            says = str(error).replace(f"{self._settings.cache_dir}/", "")
            message = f"the model cannot be used: {says}"[:MESSAGE_LENGTH]
        for item in items:
            yield Failed(item.job_id, code, message, retry=not is_models)

    def _note_health(self, outcomes: Collection[Outcome]) -> None:
        """Pause, longer each time, after batches in which nothing succeeded but might have.

        A single job that fails again and again is its own fault, and nobody else shall wait for it.
        """
        if any(isinstance(outcome, Succeeded) for outcome in outcomes):
            self._pause.end()
            self._failed.clear()
            return
        again = {o.job_id for o in outcomes if isinstance(o, Failed) and o.retry}
        self._failed |= again
        is_sick = any(
            isinstance(o, Released) or (isinstance(o, Failed) and o.code in set(Sickness))
            for o in outcomes
        )
        if is_sick or (again and len(self._failed) > 1):
            self._pause.lengthen()
            _log.warning("nothing came of this batch: claiming nothing for %.0f s", self.pause_s)

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


def _not_made(item: Item, error: JobError) -> Outcome:
    if error.code == Sickness.DISK_FULL:
        return released(item.job_id, Sickness.DISK_FULL)
    # Whichever of them it was: alone each does no harm to others.
    solo = error.code == Sickness.DEVICE_ERROR
    return Failed(item.job_id, error.code, error.message, error.retry, solo)
