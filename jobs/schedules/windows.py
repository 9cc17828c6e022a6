"""Opens the campaigns whose next run window has come."""

import logging
from datetime import datetime

from sqlalchemy import Engine

from jobs.schedules.definition import stored_window
from storage.ledger import windows

_log = logging.getLogger(__name__)


def open_windows(engine: Engine, now: datetime) -> None:
    """Set the times of the window that has come, in every campaign that waited for it.

    One that was over before anyone looked is the last one where late jobs expire; where they wait,
    the next one is set.
    """
    with engine.begin() as connection:
        for campaign in windows.reopening(connection, now):
            try:
                window = stored_window(campaign.run_window)
                assert window is not None
                terms = window.terms(campaign.reopens_at, now)
            except Exception:  # noqa: BLE001 (cronsim's own errors have no other base)
                # Such as a time zone that this host does not know: the others still open.
                _log.exception("campaign %s cannot be opened", campaign.campaign_id)
                continue
            windows.set_times(connection, campaign.campaign_id, terms.closes_at, terms.reopens_at)
