"""Cancels the jobs of cancelled campaigns, a chunk at a time."""

from sqlalchemy import Engine

from storage.ledger import cancel


def cancel_campaigns(engine: Engine) -> None:
    """Go on until no cancelled campaign has a job that could still start."""
    while cancel.cancel_flagged(engine):
        pass
