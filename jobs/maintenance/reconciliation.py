"""Compares the counters of campaigns with their rows, now and then, and mends what has drifted."""

import logging

from sqlalchemy import Engine

from storage import counters

_log = logging.getLogger(__name__)

AT_ONCE = 5


def reconcile_campaigns(engine: Engine) -> None:
    """Reconcile campaigns whose turn it is: each hour, and once after it has ended.

    A few at a time, so that a sweeper that is asked to stop does so.
    """
    for _ in range(AT_ONCE):
        done = counters.reconcile_next(engine)
        if done is None:
            return
        if done.drift:
            _log.error(
                "campaign %s: its counters had drifted and are mended: %s; please report this",
                done.campaign_id,
                ", ".join(f"{status} {jobs:+d}" for status, jobs in sorted(done.drift.items())),
            )
