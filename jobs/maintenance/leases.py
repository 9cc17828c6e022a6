"""Takes expired leases and queues their jobs again."""

import logging

from sqlalchemy import Engine

from jobs.maintenance.wakeups import send_wake_ups
from jobs.queue import WakeUps
from storage.ledger import recover

_log = logging.getLogger(__name__)


def recover_leases(engine: Engine, wake_ups: WakeUps, connected_s: float) -> None:
    """Recover every claim whose lease has expired, then wake workers for what came back."""
    any_recovered = False
    while recovered := recover.recover_claim(engine, connected_s=connected_s):
        any_recovered = True
        _log.warning(
            "claim %s of worker %s expired: took back %d jobs",
            recovered.claim_id,
            recovered.worker,
            recovered.jobs,
        )
    if any_recovered:
        send_wake_ups(engine, wake_ups)
