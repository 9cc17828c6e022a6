"""Cancels the jobs of cancelled campaigns."""

from sqlalchemy import Engine

from storage.ledger import cancel


def cancel_campaigns(engine: Engine) -> None:
    """See that no cancelled campaign has a job that could still start."""
    cancel.cancel_flagged(engine)
