"""What becomes of a batch whose model, or adapter, could not be loaded."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import UUID

from jobs.registry.mirror import ModelFilesError
from storage.ledger.finish import Failed, Outcome
from storage.objects import ObjectStoreError
from workers.family import Item
from workers.generation import MESSAGE_LENGTH
from workers.resident import LicenceEndedError
from workers.sickness import Sickness, released, sickness_of

_log = logging.getLogger(__name__)


def not_loaded(
    claim_id: UUID, items: Sequence[Item], error: Exception, cache_dir: Path
) -> Iterator[Outcome]:
    """What became of each item, by what loading raised; the log is told why."""
    sickness = sickness_of(error)
    if sickness is Sickness.DISK_FULL:
        # One line, that says what to do: the traceback tells no more.
        _log.error(
            "claim %s: the disk is full (%s): free some space for %s, or set PRESSWORK_CACHE_DIR",
            claim_id,
            error,
            cache_dir,
        )
        yield from (released(item.job_id, sickness) for item in items)
        return
    if isinstance(error, LicenceEndedError):
        for item in items:
            yield Failed(item.job_id, "licence_ended", str(error), retry=False)
        return
    if isinstance(error, ObjectStoreError):
        # No fault of the jobs': they go back, and it costs them no attempt.
        _log.warning("claim %s: the model could not be fetched: %s", claim_id, error)
        yield from (released(item.job_id, sickness) for item in items)
        return
    _log.error("claim %s: the model could not be loaded", claim_id, exc_info=error)
    lost = sickness is Sickness.DEVICE_ERROR
    code = Sickness.DEVICE_ERROR.value if lost else "model_not_loaded"
    message = f"the model could not be loaded ({type(error).__name__}); the log has it"
    is_models = isinstance(error, ValueError) and not isinstance(error, ModelFilesError)
    if is_models:
        # The family's own words, about the model: no other worker could load it either. Where
        # the files lie on this machine is nobody's business.
        says = str(error).replace(f"{cache_dir}/", "")
        message = f"the model cannot be used: {says}"[:MESSAGE_LENGTH]
    for item in items:
        yield Failed(item.job_id, code, message, retry=not is_models)
