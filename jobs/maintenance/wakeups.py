"""Sends the wake-ups that are missing: new work's first ones, and those the broker has lost."""

from sqlalchemy import Engine

from jobs.queue import WakeUps
from storage.ledger import backlog


def send_wake_ups(engine: Engine, wake_ups: WakeUps) -> None:
    """See that every pool with queued work has a wake-up per live worker on its way."""
    for pool, workers in backlog.queued_pools(engine):
        wanted = max(workers, 1)
        on_their_way = wake_ups.waiting(pool)
        if on_their_way is not None and on_their_way < wanted:
            wake_ups.send(pool, wanted - on_their_way)
