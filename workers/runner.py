"""One batch from claim to finish: claim -> load -> generate -> store -> finish."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from jobs.campaigns import creatives
from jobs.campaigns.creatives import Creative
from jobs.kinds import KINDS, KindRequest
from jobs.kinds.values import derived_seed
from jobs.problems import BadInputError
from jobs.settings import Settings
from storage import models
from storage.ledger import claim, finish
from storage.ledger.claim import Batch, ClaimedJob
from storage.ledger.finish import Failed, NewArtifact, Outcome, Released, Succeeded
from storage.models import ModelCard
from storage.objects import ObjectStore, ObjectStoreError, artifact_key, sha256_hex
from workers.family import Device, Family, Item, JobError, Output, StopRequestedError
from workers.files import files_of
from workers.pulse import Held, Pulse
from workers.registry import FAMILIES

_log = logging.getLogger(__name__)

UPLOADS = 4
MESSAGE_LENGTH = 500


@dataclass
class Resident:
    """The model that is on the device."""

    card: ModelCard
    family: Family[Any]
    model: Any


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
        self._objects = objects
        self._pulse = pulse
        self._device = device
        self._name = name
        self._stopping = stopping
        self._resident: Resident | None = None
        self._batch_key: str | None = None
        self._key_since = 0.0
        self._uploads = ThreadPoolExecutor(UPLOADS, thread_name_prefix="upload")

    def run_next(self) -> bool:
        """Claim a batch and see it through; False: there was nothing to do."""
        batch = claim.claim(
            self._engine,
            worker=self._name,
            pool=self._settings.pool,
            size=self._settings.batch_size,
            lease_s=self._settings.lease_s,
            prefer=self._preferred_key(),
        )
        if batch is None:
            return False
        if batch.batch_key != self._batch_key:
            self._batch_key, self._key_since = batch.batch_key, time.monotonic()
        with self._pulse.hold(batch.claim_id) as held:
            self._run(batch, held)
        return True

    def close(self) -> None:
        """Give the device and the threads back."""
        self._uploads.shutdown()
        self._unload()

    def _preferred_key(self) -> str | None:
        """The key whose model is loaded, for a while; then whoever has waited longest."""
        if time.monotonic() - self._key_since < self._settings.slice_s:
            return self._batch_key
        self._batch_key = None
        return None

    def _run(self, batch: Batch, held: Held) -> None:
        started = time.monotonic()
        outcomes: list[Outcome] = []
        try:
            # Not a comprehension: what was decided before a stop is kept.
            for outcome in self._outcomes(batch, held):
                outcomes.append(outcome)  # noqa: PERF402
        except StopRequestedError:
            _log.info("claim %s: stopped between two steps", batch.claim_id)
        if held.lost:
            _log.warning("claim %s: lost the lease, its jobs are others' now", batch.claim_id)
            return
        decided = {outcome.job_id for outcome in outcomes}
        outcomes += [Released(job.id) for job in batch.jobs if job.id not in decided]
        statuses = self._finish(batch, outcomes)
        _log.info(
            "claim %s: %d jobs in %.2f s: %s",
            batch.claim_id,
            len(batch.jobs),
            time.monotonic() - started,
            ", ".join(sorted(statuses.values())) or "none was ours any more",
        )

    def _outcomes(self, batch: Batch, held: Held) -> Iterator[Outcome]:
        """What became of each job, as soon as it is known."""
        items = []
        for prepared in _prepared(batch):
            if isinstance(prepared, Failed):
                yield prepared
            else:
                items.append(prepared)
        if not items:
            return
        try:
            resident = self._load(items[0])
        except (ValueError, OSError) as error:
            _log.exception("claim %s: the model could not be loaded", batch.claim_id)
            for item in items:
                yield Failed(item.job_id, "model_not_loaded", _message(error), retry=True)
            return
        context = BatchContext(held, {item.job_id for item in items}, self._stopping)
        stored = []
        for item, made in _make(resident, items, context):
            if isinstance(made, JobError):
                yield Failed(item.job_id, made.code, made.message, made.retry)
            else:
                stored.append((item, self._uploads.submit(self._store, batch, item, made)))
        for item, upload in stored:
            try:
                yield Succeeded(item.job_id, upload.result())
            except ObjectStoreError as error:
                _log.warning("job %s: could not be stored: %s", item.job_id, error)
                yield Failed(item.job_id, "not_stored", _message(error), retry=True)

    def _load(self, first: Item) -> Resident:
        """The model that the batch asks for, in place of another if need be."""
        name = first.request.model
        if self._resident and self._resident.card.name == name:
            return self._resident
        self._unload()
        with self._engine.begin() as connection:
            card = models.find(connection, name)
        if card is None:
            raise ValueError(f"model {name!r} is not registered")
        started = time.monotonic()
        family = FAMILIES[card.family]
        files = files_of(card, self._settings.cache_dir)
        self._resident = Resident(card, family, family.load(files, card, self._device))
        _log.info("loaded %s in %.1f s", card.identity, time.monotonic() - started)
        return self._resident

    def _unload(self) -> None:
        if self._resident:
            self._resident.family.unload(self._resident.model)
            self._resident = None

    def _store(self, batch: Batch, item: Item, outputs: Sequence[Output]) -> list[NewArtifact]:
        artifacts = []
        for index, output in enumerate(outputs):
            digest = sha256_hex(output.data)
            key = artifact_key(batch.claim_id, item.job_id, index, digest, output.media_type)
            self._objects.put(key, output.data, output.media_type)
            artifacts.append(
                NewArtifact(key, output.media_type, digest, len(output.data), output.facts)
            )
        return artifacts

    def _finish(self, batch: Batch, outcomes: Sequence[Outcome]) -> dict[Any, Any]:
        """Record the outcomes, however long the database is away, while the lease can hold.

        Leases do not run out while the database is away: see `storage.ledger.recover`.
        """
        deadline = time.monotonic() + 2 * batch.lease_s
        while True:
            try:
                return finish.finish(self._engine, batch.claim_id, outcomes)
            except DBAPIError as error:
                if time.monotonic() > deadline:
                    raise
                _log.warning("claim %s: not finished yet (%s)", batch.claim_id, error.orig)
                threading.Event().wait(1)


class BatchContext:
    """Tells a family to stop: the worker ends, the lease is lost, or nobody wants the batch."""

    def __init__(self, held: Held, wanted: set[Any], stopping: Callable[[], bool]) -> None:
        self._held = held
        self._wanted = wanted
        self._stopping = stopping

    def step(self, done: int, total: int) -> None:  # noqa: ARG002 (progress, for those who show it)
        """Raise `StopRequestedError` if going on is of no use."""
        if self._stopping() or self._held.lost or self._wanted <= self._held.cancelled:
            raise StopRequestedError


def _prepared(batch: Batch) -> Iterator[Item | Failed]:
    """Each job's request, a campaign's rendered now: personal data lives in one table only."""
    parsed: dict[UUID, Creative] = {}
    for job in batch.jobs:
        try:
            yield Item(job.id, _request(job, parsed))
        except (BadInputError, ValueError, KeyError) as error:
            yield Failed(job.id, "bad_request", _message(error), retry=False)


def _request(job: ClaimedJob, parsed: dict[UUID, Creative]) -> KindRequest:
    if job.part is not None:
        part = job.part
        creative = parsed.get(part.creative_id)
        if creative is None:
            creative = Creative.from_parameters(part.creative, job.kind, part.parameters)
            parsed[part.creative_id] = creative
        return creatives.render(creative, part.row, part.recipient_key, job.id)
    request = KINDS[job.kind].Request.model_validate(job.request)
    if request.seed is None:
        request = request.model_copy(update={"seed": derived_seed(str(job.id))})
    return request


def _make(
    resident: Resident, items: Sequence[Item], context: BatchContext
) -> Iterator[tuple[Item, list[Output] | JobError]]:
    """The outputs, in calls of the size that the model takes."""
    size = resident.family.max_batch(resident.model)
    for start in range(0, len(items), size):
        yield from _call(resident, items[start : start + size], context)


def _call(
    resident: Resident, items: Sequence[Item], context: BatchContext
) -> Iterator[tuple[Item, list[Output] | JobError]]:
    try:
        made = list(resident.family.generate(resident.model, items, context))
    except StopRequestedError:
        raise
    except Exception as error:  # noqa: BLE001 (whatever a model raises concerns this call only)
        _log.exception("generating %d items failed", len(items))
        failure = JobError("generation_failed", _message(error), retry=True)
    else:
        yield from ((items[index], outputs) for index, outputs in made)
        return
    # Outside of the except block, whose traceback keeps the failed call's tensors alive.
    if len(items) == 1:
        yield items[0], failure
        return
    for item in items:  # one of them may be at fault; its mates shall not suffer
        yield from _call(resident, [item], context)


def _message(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:MESSAGE_LENGTH]
