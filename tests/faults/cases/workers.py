"""A worker dies, is stopped, or is asked to leave, at every point of a batch's way."""

import os
import signal
from functools import partial

from tests.faults.trial import Case, Trial

POINTS = (
    "claim-commit",
    "claimed",
    "loaded",
    "denoising",
    "before-put",
    "after-put",
    "finishing",
    "before-commit",
    "after-commit",
    "before-ack",
)
"""In the order in which a batch comes to them."""


GRACE_S = 30
"""What `python -m workers.main` grants its slots."""


def kill(trial: Trial, point: str, whom: str) -> None:
    """SIGKILL of the process that computes, or of the whole worker."""
    trial.order(point, f"kill-{whom}")
    trial.submit()
    while point == "before-ack" and trial.is_open(point):
        # Work that an idle look has done has no wake-up to acknowledge.
        trial.until(lambda: trial.ended() or not trial.is_open(point), "the jobs are done")
        trial.submit()
    trial.done(point)


def zombie(trial: Trial, point: str, model: str = "debug-diffusion") -> None:
    """SIGSTOP until the lease is lost and others have done the work; then SIGCONT.

    Its late writes must change nothing, and what it has uploaded must be collected.
    """
    trial.order(point, "stop")
    trial.submit(model=model)
    stopped = trial.done(point)
    trial.until(trial.ended, "others have done the zombie's work")
    trial.order("looking", "note", to=stopped.slot)
    os.kill(stopped.pid, signal.SIGCONT)
    trial.wait_for("looking")  # it has come to the end of its batch, and asks for more


def sigterm(trial: Trial) -> None:
    """SIGTERM in the middle of a batch: it is finished or given back, and no attempt is lost."""
    trial.order("denoising", "hold")
    trial.submit(steps=20)
    worker = trial.done("denoising")
    parent = trial.house.child(worker.slot)
    os.kill(parent.pid, signal.SIGTERM)
    trial.house.orders.release("denoising")
    parent.wait(GRACE_S)
    trial.until(trial.ended, "the jobs are done")
    trial.check_no_attempt_lost()


CASES: dict[str, Case] = {
    **{
        f"kill-{whom}-{point}": partial(kill, point=point, whom=whom)
        for whom in ("child", "both")
        for point in POINTS
    },
    "zombie-denoising": partial(zombie, point="denoising"),
    "zombie-after-put": partial(zombie, point="after-put"),
    "zombie-finishing": partial(zombie, point="finishing"),
    "sigterm": sigterm,
}
