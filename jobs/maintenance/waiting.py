"""Promotes waiting jobs whose time has come."""

from sqlalchemy import Engine

from jobs.maintenance.wakeups import send_wake_ups
from jobs.queue import WakeUps
from storage.ledger import recover


def promote_waiting(engine: Engine, wake_ups: WakeUps) -> None:
    """Queue what is due, then wake workers for it."""
    if recover.promote(engine):
        send_wake_ups(engine, wake_ups)
