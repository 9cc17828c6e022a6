"""Promotes waiting jobs whose time has come, or whose needs have ended without being followed."""

from sqlalchemy import Engine

from jobs.maintenance.wakeups import send_wake_ups
from jobs.queue import WakeUps
from jobs.schedules.windows import open_windows
from storage import schedules
from storage.ledger import needs, recover


def promote_waiting(engine: Engine, wake_ups: WakeUps) -> None:
    """Queue all that is due, a chunk at a time, and wake workers for each."""
    # First, or the jobs that waited for a window would be held back once more at their claim.
    with engine.begin() as connection:
        now = schedules.now(connection)
    open_windows(engine, now)
    promoted = recover.PROMOTED_AT_ONCE
    while promoted >= recover.PROMOTED_AT_ONCE:
        promoted = recover.promote(engine)
        if promoted:
            send_wake_ups(engine, wake_ups)
    if needs.settle_missed(engine):
        send_wake_ups(engine, wake_ups)
