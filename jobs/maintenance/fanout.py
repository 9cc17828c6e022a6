"""Turns submitted campaigns into jobs."""

import logging

from sqlalchemy import Engine

from jobs.maintenance.wakeups import send_wake_ups
from jobs.queue import WakeUps
from storage.ledger import fanout

_log = logging.getLogger(__name__)

MANY = 10_000
"""Jobs that change what a good plan is."""


def fan_out_campaigns(engine: Engine, wake_ups: WakeUps) -> None:
    """Make the jobs of every campaign that waits for it, and wake workers for each."""
    for done in fanout.fan_out(engine):
        _log.info("campaign %s: %d jobs queued", done.campaign_id, done.jobs)
        send_wake_ups(engine, wake_ups)
        if done.jobs >= MANY:
            fanout.refresh_statistics(engine)
