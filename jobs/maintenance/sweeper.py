"""Runs the services, each in its own thread so that a slow one does not hold up the others."""

import logging
import threading
import time
from collections.abc import Callable

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from jobs.maintenance.cancellations import cancel_campaigns
from jobs.maintenance.fanout import fan_out_campaigns
from jobs.maintenance.leases import recover_leases
from jobs.maintenance.waiting import promote_waiting
from jobs.maintenance.wakeups import send_wake_ups
from jobs.queue import WakeUps
from jobs.services import Services, open_services
from jobs.settings import Settings

_log = logging.getLogger(__name__)

CUT_OFF_S = 5.0

Service = Callable[[Engine, WakeUps, float], None]
"""``connected_s`` is how long the service has had the database without a break."""

SERVICES: dict[str, Service] = {
    "fan out": lambda engine, wake_ups, _: fan_out_campaigns(engine, wake_ups),
    "leases": recover_leases,
    "waiting": lambda engine, wake_ups, _: promote_waiting(engine, wake_ups),
    "wake-ups": lambda engine, wake_ups, _: send_wake_ups(engine, wake_ups),
    "cancellations": lambda engine, _wake_ups, _: cancel_campaigns(engine),
}


def run(settings: Settings, stop: threading.Event) -> None:
    """Run all services until ``stop``. Any number of sweepers may run at once."""
    with open_services(settings, "presswork sweeper", pool_size=len(SERVICES)) as services:
        threads = [
            threading.Thread(target=_serve, args=(name, services, stop), name=name)
            for name in SERVICES
        ]
        for thread in threads:
            thread.start()
        _log.info("sweeper is up: %s", ", ".join(SERVICES))
        for thread in threads:
            thread.join()


def _serve(name: str, services: Services, stop: threading.Event) -> None:
    # A sweeper that has just started has not been cut off: it may trust the leases it sees.
    connected_since, seen_at = float("-inf"), time.monotonic()
    while not stop.is_set():
        if time.monotonic() - seen_at > services.settings.sweep_s + CUT_OFF_S:
            # The database hung, or we did; a connection that comes back does not tell.
            connected_since = time.monotonic()
        try:
            SERVICES[name](services.engine, services.wake_ups, time.monotonic() - connected_since)
            seen_at = time.monotonic()
        except DBAPIError as error:
            _log.warning("%s: the database does not answer (%s)", name, error.orig)
            connected_since = seen_at = time.monotonic()
        except Exception:  # noqa: BLE001 (one bad pass must not end the service)
            _log.exception("%s failed; trying again", name)
        stop.wait(services.settings.sweep_s)
