"""Two who want the same at the same instant: cancel and finish, cancel and a long batch, poison."""

from functools import partial
from pathlib import Path
from uuid import UUID

from storage.ledger import cancel
from storage.ledger.cancel import WrongStateError
from storage.lifecycle import JobStatus
from tests.faults.launch import POISON_KILLS, POISON_RAISES
from tests.faults.trial import SUCCEEDED, Case, Trial

EITHER = frozenset({JobStatus.SUCCEEDED, JobStatus.CANCELLED})
CANCELLED = frozenset({JobStatus.CANCELLED})
FAILED = frozenset({JobStatus.FAILED})
STEPS_ALLOWED = 2
ATTEMPTS = 3


def cancel_against_finish(trial: Trial, point: str) -> None:
    """Jobs are cancelled while their batch is finished: exactly one of the two wins, each time."""
    trial.order(point, "hold")
    trial.submit(8, ends=EITHER)
    trial.done(point)
    trial.house.orders.release(point)
    trial.jitter(0.004)
    for job_id in trial.job_ids:
        # Who was told that it is cancelled must find it so, and who was refused must not.
        trial.expect(job_id, CANCELLED if _cancel(trial, job_id) else SUCCEEDED)


def cancel_of_a_running_batch(trial: Trial) -> None:
    """Nobody wants the batch any more: it stops within two denoising steps of the cancel."""
    steps = Path(trial.house.data / "steps")
    steps.unlink(missing_ok=True)
    trial.house.orders.stand("steps", file=str(steps))
    trial.order("denoising", "note")
    trial.submit(2, size="256x256", steps=1000, ends=CANCELLED)
    trial.done("denoising")
    for job_id in trial.job_ids:
        _cancel(trial, job_id)
    before = steps.stat().st_size
    trial.until(trial.ended, "the batch has stopped")
    after = steps.stat().st_size - before
    assert after <= STEPS_ALLOWED, f"{after} denoising steps after the cancel"
    trial.submit(1)  # and the device is free for it


def poison(trial: Trial, prompt: str) -> None:
    """One job fails or kills its process each time: it alone fails, after its attempts."""
    trial.submit(prompts=[prompt], prompt_ends=FAILED, ends=SUCCEEDED)
    trial.until(trial.ended, "the poison has run out of attempts")
    attempts = trial.value(
        "SELECT attempts FROM jobs WHERE id = ANY(:ids) ORDER BY status = 'failed' DESC LIMIT 1"
    )
    assert attempts == ATTEMPTS, f"the poison had {attempts} attempts"


def _cancel(trial: Trial, job_id: UUID) -> bool:
    """Whether the cancel was first."""
    try:
        cancel.cancel_job(trial.house.engine, trial.house.tenant_id, job_id)
    except WrongStateError:
        return False
    return True


CASES: dict[str, Case] = {
    "cancel-against-finish": partial(cancel_against_finish, point="finishing"),
    "cancel-against-commit": partial(cancel_against_finish, point="before-commit"),
    "cancel-running": cancel_of_a_running_batch,
    "poison-raises": partial(poison, prompt=POISON_RAISES),
    "poison-kills": partial(poison, prompt=POISON_KILLS),
}
