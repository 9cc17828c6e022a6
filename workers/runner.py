"""One batch from claim to finish: claim -> prepare -> load -> generate -> store -> finish.

While one batch is on the device, the one before it is stored and finished, and towards its end
the next one is claimed and prepared, so that the device does not wait for either.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import replace
from functools import partial
from uuid import UUID

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from jobs.settings import Settings
from storage.ledger import finish, heads, needs
from storage.ledger.claim import Batch
from storage.ledger.finish import Failed, Outcome, Released, Succeeded
from storage.lifecycle import JobStatus
from storage.objects import ObjectStore, ObjectStoreError
from workers import warming
from workers.family import Device, Item, JobError
from workers.generation import BatchContext, make
from workers.inputs import Inputs
from workers.items import by_uses, facts_of, items_of
from workers.loading import not_loaded
from workers.pulse import Pulse
from workers.resident import Residency
from workers.reuse import Plan, Reuse
from workers.room import Room
from workers.sickness import Sickness, released, sickness_of
from workers.stopping import Pause, wait
from workers.trainings import Trainings
from workers.turns import Turns
from workers.work import Work
from workers.writer import Writer

_log = logging.getLogger(__name__)

BEHIND = 2
"""How many batches may wait to be stored and finished, in memory, before the device waits."""


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
        budget_gb = settings.model_memory_gb
        self._residency = Residency(
            engine,
            objects,
            settings.cache_dir,
            device,
            budget_bytes=None if budget_gb is None else int(budget_gb * 1e9),
            report=pulse.report,
        )
        self._inputs = Inputs(objects, partial(needs.artifacts, engine))
        self._reuse = Reuse(engine)
        self._writer = Writer(objects, {"worker": name, "device": device.type}, stopping)
        self._trainings = Trainings(settings, engine, objects, device, self._writer, stopping)
        self._room = Room(engine, device, settings.batch_size)
        self._turns = Turns(
            engine,
            worker=name,
            pools=settings.pools,
            size=lambda key: self._reuse.claim_size(self._room.claim_size(key), key),
            lease_s=settings.lease_s,
            slice_s=settings.slice_s,
        )
        self._slice: tuple[str, int] | None = None
        self._models: dict[str, str] = {}
        """By batch keys that were run, the models that they need."""
        self._spent: deque[tuple[Batch, float]] = deque()
        self._under_way: set[UUID] = set()
        """The claims that are not finished yet. They will be in their order."""
        self._pause = pause or Pause()
        self._failed: set[UUID] = set()
        """Jobs that might have gone well, since the last one that did."""
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        self._settling = ThreadPoolExecutor(1, thread_name_prefix="settle")
        self._next: Future[Work | None] | None = None
        self._behind: deque[Future[None]] = deque()

    @property
    def pause_s(self) -> float:
        """How long to claim nothing now."""
        return self._pause.seconds

    def run_next(self) -> bool:
        """Claim a batch and see it through; False: there was nothing to do.

        Raises:
            DeviceLostError: the batch has been seen through, but this process can do no other.
        """
        work = self._prepare()
        if work is None:
            return False
        self._make(work, nearly_done=None)
        self._settle(work)
        if work.lost_device:
            raise DeviceLostError
        return True

    def drain(self) -> None:
        """See batches through, each overlapping with the next, until nothing is left or to stop.

        Raises:
            DeviceLostError: what was claimed has been seen through or given back, but this process
                can do no other batch.
        """
        try:
            while not self._stopping():
                if pause_s := self.pause_s:
                    self._give_back()  # nobody shall wait with this worker
                    wait(pause_s, self._stopping)
                work = self._take()
                if work is None and self._behind:
                    # What these have made may be what other jobs have waited for.
                    self._settle_all()
                    wait(self.pause_s, self._stopping)
                    work = self._take()
                self._pulse.report.turn_to(work.batch.batch_key if work else None)
                if work is None:
                    return
                if work.batch.is_solo:
                    # Should it kill the process, no other claim is to pay for that.
                    wait_for(self._behind)
                    self._make(work, nearly_done=None)
                else:
                    self._make(work, nearly_done=self._look_ahead)
                lost_device = work.lost_device  # before another thread decides what it stores
                self._let_settle(work)
                if lost_device:
                    raise DeviceLostError
        finally:
            try:
                self._give_back()
            finally:
                self._settle_all()

    def warm(self) -> None:
        """Have compiled what the heads of the queue will need, which are not claimed by that."""
        for pool in self._settings.pools:
            found = heads.heads(self._engine, pool, size=self._settings.batch_size)
            warming.warm(found, self._inputs, self._residency, self._room)

    def close(self) -> None:
        """Give the device and the threads back."""
        self._preparing.shutdown()
        self._settling.shutdown()
        self._writer.close()
        self._residency.clear()

    # Ahead of the device: what comes next.

    def _look_ahead(self) -> None:
        """Begin to prepare the next batch, once, unless this worker is sick or about to stop."""
        if self._next is None and not self.pause_s and not self._stopping():
            self._next = self._preparing.submit(self._prepare)

    def _take(self) -> Work | None:
        """The next batch, prepared already or now; None: there was none."""
        ahead, self._next = self._next, None
        return ahead.result() if ahead else self._prepare()

    def _prepare(self) -> Work | None:
        """Claim a batch, with the requests and the input files of its jobs."""
        batch = self._claim()
        if batch is None:
            return None
        _log.info("claim %s: %d jobs of %s", batch.claim_id, len(batch.jobs), batch.batch_key)
        work = Work(batch, self._pulse.hold(batch.claim_id), self._turns.slices)
        try:
            items = []
            for item in self._inputs.given(batch, items_of(batch)):
                if isinstance(item, Item):
                    items.append(item)
                else:
                    work.decide(item)
            work.plan = self._reuse.plan(batch, items, self._under_way)
            for outcome in work.plan.outcomes:
                work.decide(outcome)
            if work.plan.is_put_off:
                self._turns.end_slice()
        except Exception as error:  # noqa: BLE001 (ours; it must not leave the batch hanging)
            self._note_own(work, error)
        self._under_way.add(batch.claim_id)
        return work

    def _claim(self) -> Batch | None:
        while self._spent:  # here, so that the turns are one thread's at a time
            self._turns.spent(*self._spent.popleft())
        loaded = set(self._residency.names)
        self._models = {key: name for key, name in self._models.items() if name in loaded}
        return self._turns.next(self._models)

    def _give_back(self) -> None:
        """Give back what was claimed ahead, untouched."""
        ahead, self._next = self._next, None
        try:
            work = ahead.result() if ahead else None
        except DBAPIError as error:
            _log.warning("the database does not answer: %s", error.orig)
            return
        if work:
            self._turns.given_back(work.batch)
            self._end(work)

    # On the device.

    def _make(self, work: Work, nearly_done: Callable[[], None] | None) -> None:
        """Make what can be made, and begin to store it."""
        began_s = time.monotonic()
        try:
            with self._pause.working():
                if work.is_training:
                    self._train(work)
                else:
                    self._generate(work, nearly_done)
        except Exception as error:  # noqa: BLE001 (ours; it must not leave the batch hanging)
            self._note_own(work, error)
        self._spent.append((work.batch, time.monotonic() - began_s))

    def _train(self, work: Work) -> None:
        self._residency.clear()  # a training takes all the memory that there is
        for job in work.batch.jobs:
            work.decide(self._trainings.run(job, work.held))

    def _generate(self, work: Work, nearly_done: Callable[[], None] | None) -> None:
        if not work.plan.items:
            return
        try:
            resident = self._residency.get(work.plan.items[0].request.model)
        except Exception as error:  # noqa: BLE001 (libraries raise what they like at a bad model)
            self._note_not_loaded(work, work.plan.items, error)
            return
        self._models |= {work.batch.batch_key: resident.card.name}
        items = self._with_adapters(work)
        if not items:
            return
        if (work.batch.batch_key, work.slice) != self._slice:
            self._slice = work.batch.batch_key, work.slice
            self._room.turn_to(work.batch.batch_key)
        context = BatchContext(work.held, self._stopping, nearly_done)
        for item, made in make(resident, items, context, self._room, self._residency.make_room):
            if isinstance(made, JobError):
                work.decide(_not_made(item, made))
            else:
                facts = facts_of(item, resident.card)
                upload = self._writer.store(work.batch.claim_id, item.job_id, made, facts)
                work.uploads.append((item, upload))

    def _with_adapters(self, work: Work) -> list[Item]:
        """The items with their adapters' files; without those that cannot have them."""
        ready: list[Item] = []
        for uses, alike in by_uses(work.plan.items):
            try:
                adapters = self._residency.adapters(uses)
            except Exception as error:  # noqa: BLE001 (only those that want this adapter suffer)
                self._note_not_loaded(work, alike, error)
            else:
                ready += [replace(item, adapters=adapters) for item in alike]
        return ready

    def _note_not_loaded(self, work: Work, items: Sequence[Item], error: Exception) -> None:
        claim_id, cache_dir = work.batch.claim_id, self._settings.cache_dir
        for outcome in not_loaded(claim_id, items, error, cache_dir):
            work.decide(outcome)

    # Behind the device: what has been made.

    def _let_settle(self, work: Work) -> None:
        """Settle beside the next batch; wait where too many are to be settled already."""
        self._behind.append(self._settling.submit(self._settle, work))
        while len(self._behind) > BEHIND:
            self._behind.popleft().result()

    def _settle_all(self) -> None:
        behind, self._behind = self._behind, deque()
        wait_for(behind)
        for settled in behind:
            settled.result()

    def _settle(self, work: Work) -> None:
        """Wait until all is stored, and finish the batch."""
        for item, upload in work.uploads:
            try:
                work.decide(Succeeded(item.job_id, self._writer.result(upload)))
            except ObjectStoreError as error:
                # No fault of the job's: it goes back, and costs it no attempt.
                _log.warning("job %s: could not be stored: %s", item.job_id, error)
                work.decide(released(item.job_id, sickness_of(error)))
            except Exception as error:  # noqa: BLE001 (encoders raise what they like)
                # Without its text, which may quote what it was given.
                _log.error("job %s: cannot be encoded: %s", item.job_id, type(error).__name__)
                message = f"the output could not be encoded ({type(error).__name__})"
                work.decide(Failed(item.job_id, "encoding_failed", message, retry=True))
        work.uploads.clear()  # the pictures, which are stored now
        self._end(work)

    def _end(self, work: Work) -> None:
        """Finish the batch; what is not decided goes back."""
        batch, outcomes = work.batch, work.outcomes
        if work.held.lost:
            _log.warning("claim %s: lost the lease, its jobs are others' now", batch.claim_id)
            # Refused, and by that noted: what was uploaded since the lease was taken is collected.
        else:
            self._note_health(outcomes.values())
            for made in list(outcomes.values()):
                outcomes |= {outcome.job_id: outcome for outcome in work.plan.follow(made)}
            for job in batch.jobs:  # what a stop or a cancel has left out
                outcomes.setdefault(job.id, Released(job.id))
        try:
            statuses = self._finish(batch, list(outcomes.values()))
        finally:
            self._pulse.drop(work.held)
            self._under_way.discard(batch.claim_id)
        self._pulse.report.note_made(
            sum(
                len(outcome.artifacts)
                for outcome in outcomes.values()
                if isinstance(outcome, Succeeded)
                and statuses.get(outcome.job_id) is JobStatus.SUCCEEDED
            )
        )
        _log.info(
            "claim %s: %d jobs in %.2f s: %s",
            batch.claim_id,
            len(batch.jobs),
            time.monotonic() - work.started_s,
            ", ".join(sorted(statuses.values())) or "none was ours any more",
        )

    def _note_own(self, work: Work, error: Exception) -> None:
        """An error of ours decides every job that is not decided yet, nor being stored."""
        _log.error("claim %s failed", work.batch.claim_id, exc_info=error)
        lost = sickness_of(error) is Sickness.DEVICE_ERROR
        code = Sickness.DEVICE_ERROR.value if lost else "internal"
        message = f"an unexpected {type(error).__name__}; the worker's log has it"
        stored = {item.job_id for item, _ in work.uploads}
        work.plan = Plan([])
        for job in work.batch.jobs:
            if job.id not in stored:
                work.outcomes.setdefault(job.id, Failed(job.id, code, message, retry=True))

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
