"""Fires the schedules whose time has come, and starts the runs that are due."""

from sqlalchemy import Engine

from jobs.schedules import firing, starting
from jobs.services import Services
from storage import schedules


def fire_schedules(engine: Engine) -> None:
    """Record the runs that have come due."""
    with engine.begin() as connection:
        now = schedules.now(connection)
    firing.fire_due(engine, now)


def start_runs(services: Services) -> None:
    """Turn the runs that are due into campaigns, which the fan-out then takes on."""
    with services.engine.begin() as connection:
        now = schedules.now(connection)
    starting.start_due(services, now)
