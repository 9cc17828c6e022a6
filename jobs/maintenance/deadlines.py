"""Holds back the jobs of campaigns whose run window has ended."""

from sqlalchemy import Engine

from storage.ledger import windows


def close_windows(engine: Engine) -> None:
    """Let what has not started wait for the next window, or expire, a chunk at a time."""
    for campaign_id in windows.to_hold(engine):
        # From where the last chunk ended: each job is looked at once, at whatever size.
        last = windows.hold(engine, campaign_id)
        while last is not None:
            last = windows.hold(engine, campaign_id, last)
    windows.forget_finished(engine)
