"""PostgreSQL restarts in the middle of a transaction, and connections are cut at COMMIT."""

import signal
from functools import partial

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tests.faults.house import House
from tests.faults.trial import Case, Trial


def restarted(trial: Trial, point: str, how: signal.Signals) -> None:
    """The server goes away between a transaction's statements and its COMMIT."""
    trial.order(point, "hold")
    trial.submit()
    trial.done(point)
    trial.fault_at = trial.house.kill("postgres", how)
    trial.house.orders.release(point)
    trial.until(lambda: _answers(trial.house), "PostgreSQL is back")


def cut_at_commit(
    trial: Trial, point: str, *, forward: bool, model: str = "debug-diffusion"
) -> None:
    """A worker's connection is cut at COMMIT, before the server sees it or instead of its answer.

    The worker cannot know which of the two happened, and must look instead of guessing.
    """
    trial.order(point, "hold")
    trial.submit(model=model)
    worker = trial.done(point)
    cut = trial.house.proxies[worker.slot].postgres.cut_at(b"COMMIT", forward=forward)
    trial.house.orders.release(point)
    trial.until(cut.is_set, "a COMMIT was cut")


def all_connections_cut(trial: Trial) -> None:
    """Every connection of a worker to the database is reset in the middle of a batch."""
    trial.order("denoising", "hold")
    trial.submit()
    worker = trial.done("denoising")
    trial.house.proxies[worker.slot].postgres.cut()
    trial.house.orders.release("denoising")


def _answers(house: House) -> bool:
    try:
        with house.engine.begin() as connection:
            return bool(connection.execute(text("SELECT true")).scalar())
    except DBAPIError:
        return False


CASES: dict[str, Case] = {
    "postgres-crashes-at-claim": partial(restarted, point="claim-commit", how=signal.SIGQUIT),
    "postgres-crashes-at-finish": partial(restarted, point="before-commit", how=signal.SIGQUIT),
    "postgres-restarts-at-finish": partial(restarted, point="before-commit", how=signal.SIGINT),
    "claim-commit-not-seen": partial(cut_at_commit, point="claim-commit", forward=False),
    "claim-commit-not-answered": partial(cut_at_commit, point="claim-commit", forward=True),
    "finish-commit-not-seen": partial(cut_at_commit, point="before-commit", forward=False),
    "finish-commit-not-answered": partial(cut_at_commit, point="before-commit", forward=True),
    "connections-reset": all_connections_cut,
}
