"""A claimed training from its last checkpoint to its end, or to where it makes way for others."""

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import Engine

from jobs.problems import BadInputError, from_validation
from jobs.settings import Settings
from jobs.trainings import caps
from jobs.trainings.parts import parts_of
from jobs.trainings.requests import TRAININGS, FinetuneRequest
from jobs.trainings.requests import Training as Request
from storage import datasets, models, tenants, trainings
from storage.ledger import heads
from storage.ledger.claim import ClaimedJob
from storage.ledger.finish import Failed, Outcome, Succeeded, Yielded
from storage.objects import ObjectStore, ObjectStoreError
from workers import memory
from workers.family import Device, StopRequestedError
from workers.files import files_of
from workers.generation import MESSAGE_LENGTH
from workers.pulse import Held
from workers.room import sort_of
from workers.sickness import MESSAGES, Sickness, released, sickness_of
from workers.training import data, memorisation, trackers
from workers.training.checkpoints import Checkpoint, Checkpoints
from workers.training.journal import Journal
from workers.training.loop import Loop
from workers.training.meter import Meter
from workers.training.registry import training_of
from workers.training.result import Origin, Result
from workers.training.story import Story
from workers.training.trainer import Ground, TimeUpError, TrainingError
from workers.writer import Writer

_log = logging.getLogger(__name__)

OUT_OF_MEMORY = (
    "the device has not enough memory for this training: ask for a smaller batch (with accumulate "
    "for the rest), a smaller size, gradient_checkpointing, or a quantized model"
)


@dataclass(frozen=True)
class Trainings:
    """What a worker needs for trainings; it does one at a time."""

    settings: Settings
    engine: Engine
    objects: ObjectStore
    device: Device
    writer: Writer
    stopping: Callable[[], bool]

    def run(self, job: ClaimedJob, held: Held) -> Outcome:
        """What became of the training. Whatever is raised ends here, but for errors of SQL."""
        try:
            return self._run(job, held)
        except Exception as error:
            outcome = self._outcome(job.id, error)
            if outcome is None:
                raise
            return outcome
        finally:
            memory.give_back()

    def _outcome(self, job_id: UUID, error: Exception) -> Outcome | None:
        """What an error means for the training; None: it is ours."""
        outcome: Outcome | None = None
        sickness = sickness_of(error)
        match error:
            case StopRequestedError():
                _log.info("training %s: stopped; it goes on from its last checkpoint", job_id)
                outcome = Yielded(job_id)
            case TrainingError() | BadInputError():
                says = str(error)[:MESSAGE_LENGTH]
                outcome = Failed(job_id, "training_failed", says, retry=False)
            case ObjectStoreError():
                _log.warning("training %s: the bucket does not answer: %s", job_id, error)
                outcome = released(job_id, sickness)
            case _ if sickness is Sickness.OUT_OF_MEMORY:
                # As text: who keeps the record of a log must not keep the error.
                _log.warning("training %s ran out of memory: %s", job_id, str(error))
                outcome = Failed(job_id, sickness.value, OUT_OF_MEMORY, retry=False)
            case _ if sickness is Sickness.DISK_FULL:
                outcome = released(job_id, sickness)
            case _ if sickness is not None:
                outcome = Failed(job_id, sickness.value, MESSAGES[sickness], retry=True)
            case ValueError():
                _log.exception("training %s cannot be done", job_id)
                says = str(error).replace(f"{self.settings.cache_dir}/", "")[:MESSAGE_LENGTH]
                outcome = Failed(job_id, "bad_training", says, retry=False)
        return outcome

    def _run(self, job: ClaimedJob, held: Held) -> Outcome:
        request = _request(job)
        origin = self._origin(job, request)
        base = origin.base

        def check_wanted() -> None:
            if held.lost or job.id in held.cancelled:
                raise StopRequestedError

        def look() -> None:
            check_wanted()
            if self.stopping():
                raise StopRequestedError

        seed = request.seed
        assert seed is not None
        ground = Ground(
            request,
            data.fetch(self.objects, job.tenant_id, origin.dataset),
            self.device,
            seed,
            card=base,
            base=files_of(base, self.settings.cache_dir, self.objects) if base else None,
            look=look,
        )
        others = trackers.chosen(self.settings.tracker_names, job.id)
        with (
            Journal(self.engine, self.objects, held.claim_id, job.id, others) as journal,
            Meter(self.engine, sort_of(self.device), parts_of(request, base)) as meter,
        ):
            about = {"device": self.device.type}
            story = Story(journal, self.objects, job.id, held.claim_id, about)
            training = training_of(ground)
            loop = Loop(
                training,
                request,
                seed,
                Checkpoints(self.objects, job.id, held.claim_id),
                story,
                check_wanted,
                give_way=lambda: heads.waits(self.engine, self.settings.pools, job.id),
                slice_s=self.settings.training_slice_s,
                start_from=lambda: self._continued(job, request),
                max_seconds=origin.caps.max_seconds,
                stepped=meter.stepped,
                pause=lambda: job.id in held.paused,
                stopping=self.stopping,
            )
            try:
                is_done = loop.run()
            except TimeUpError as error:
                steps = training.steps
                says = caps.used_up(origin.caps, job_id=job.id, step=error.step, steps=steps)
                return Failed(job.id, "training_cap", says, retry=False)
            if not is_done:
                return Yielded(job.id)
            facts = memorisation.at_end(training, ground, story)
            with tempfile.TemporaryDirectory(prefix="presswork-trained-") as folder:
                made = training.export(Path(folder))
                look()
                journal.flush()  # after the finish nothing is taken of this claim
                state = training.state
                steps = state.get("stopped_at", training.steps)
                result = Result(made, request, origin, steps, state.get("evaluated", {}), facts)
                return self._succeeded(job, held, result)

    def _succeeded(self, job: ClaimedJob, held: Held, result: Result) -> Succeeded:
        """Its files are stored under their digests; the finish writes the card."""
        card = result.store(self.objects, job.id)
        outputs = list(result.outputs())
        upload = self.writer.store(held.claim_id, job.id, outputs, result.facts_of(card))
        return Succeeded(job.id, self.writer.result(upload), registers=card)

    def _origin(self, job: ClaimedJob, request: Request) -> Origin:
        """What the request names, as it is now."""
        name = request.model if isinstance(request, FinetuneRequest) else None
        with self.engine.begin() as connection:
            dataset = datasets.find(connection, job.tenant_id, request.dataset)
            tenant = tenants.get(connection, job.tenant_id)
            base = models.find(connection, name) if name else None
            limits = caps.caps_of(connection, self.settings, job.tenant_id)
            before = request.continue_from
            other = trainings.find(connection, job.tenant_id, before) if before else None
            made = models.own_name(tenant.name, other.request["name"]) if other else None
            continued = models.find(connection, made) if made else None
        if dataset is None or dataset.removed_at:
            raise TrainingError(f"dataset {request.dataset!r} was removed")
        if name and (base is None or not base.is_for(job.tenant_id)):
            raise TrainingError(f"there is no model {name!r}")
        return Origin(tenant, dataset, base, continued, limits)

    def _continued(self, job: ClaimedJob, request: Request) -> Checkpoint | None:
        if request.continue_from is None:
            return None
        found = Checkpoints(self.objects, request.continue_from, job.id).latest()
        if found is None:
            raise TrainingError(f"training {request.continue_from} has left no checkpoint")
        return found


def _request(job: ClaimedJob) -> Request:
    kind = TRAININGS[job.kind]
    try:
        request = kind.model_validate(job.request)
    except ValidationError as error:
        raise BadInputError(*from_validation(error, kind)) from error
    return request
