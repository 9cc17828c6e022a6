"""Runs the services, each in its own thread so that a slow one does not hold up the others."""

import logging
import threading
import time
from collections.abc import Callable

from sqlalchemy.exc import DBAPIError

from jobs.maintenance.arrivals import Arrivals
from jobs.maintenance.cancellations import cancel_campaigns
from jobs.maintenance.deadlines import close_windows
from jobs.maintenance.fanout import fan_out_campaigns
from jobs.maintenance.leases import recover_leases
from jobs.maintenance.orphans import collect_orphans
from jobs.maintenance.reconciliation import reconcile_campaigns
from jobs.maintenance.schedules import fire_schedules, start_runs
from jobs.maintenance.waiting import promote_waiting
from jobs.maintenance.wakeups import send_wake_ups
from jobs.services import Services, open_services, wait_until_migrated
from jobs.settings import Settings

_log = logging.getLogger(__name__)

CUT_OFF_S = 5.0

Service = Callable[[Services, float], object]
"""``connected_s`` is how long the service has had the database without a break."""

SERVICES: dict[str, Service] = {
    "fan out": lambda to, _: fan_out_campaigns(to.engine, to.wake_ups),
    "leases": lambda to, connected_s: recover_leases(to.engine, to.wake_ups, connected_s),
    "waiting": lambda to, _: promote_waiting(to.engine, to.wake_ups),
    "wake-ups": lambda to, _: send_wake_ups(to.engine, to.wake_ups),
    "cancellations": lambda to, _: cancel_campaigns(to.engine),
    "schedules": lambda to, _: fire_schedules(to.engine),
    # Apart from those that fire: storing a million recipients takes its time.
    "scheduled runs": lambda to, _: start_runs(to),
    "deadlines": lambda to, _: close_windows(to.engine),
    "orphans": lambda to, _: collect_orphans(to.engine, to.objects),
    "reconciliation": lambda to, _: reconcile_campaigns(to.engine),
}


def run(settings: Settings, stop: threading.Event) -> None:
    """Run all services until ``stop``. Any number of sweepers may run at once."""
    with open_services(settings, "presswork sweeper", pool_size=len(SERVICES)) as services:
        if not wait_until_migrated(services.engine, stop.wait):
            return
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
    arrivals = Arrivals(services.engine)
    # A sweeper that has just started has not been cut off: it may trust the leases it sees.
    connected_since, seen_at = float("-inf"), time.monotonic()
    while not stop.is_set():
        if time.monotonic() - seen_at > services.settings.sweep_s + CUT_OFF_S:
            # The database hung, or we did; a connection that comes back does not tell.
            connected_since = time.monotonic()
        try:
            if name == "fan out":
                arrivals.listen()
            SERVICES[name](services, time.monotonic() - connected_since)
            seen_at = time.monotonic()
        except DBAPIError as error:
            _log.warning("%s: the database does not answer (%s)", name, error.orig)
            connected_since = seen_at = time.monotonic()
        except Exception:  # noqa: BLE001 (one bad pass must not end the service)
            _log.exception("%s failed; trying again", name)
        arrivals.pause(services.settings.sweep_s, stop)
    arrivals.close()
