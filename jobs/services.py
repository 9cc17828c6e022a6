"""The services that a door works with, opened once per process."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Engine

from jobs.queue import WakeUps
from jobs.settings import Settings
from storage import database
from storage.objects import ObjectStore

_log = logging.getLogger(__name__)

SCHEMA_LOOK_S = 1.0


@dataclass(frozen=True)
class Services:
    """SQL, the bucket, and the way to wake workers."""

    settings: Settings
    engine: Engine
    objects: ObjectStore
    wake_ups: WakeUps


@contextmanager
def open_services(
    settings: Settings, application: str, *, pool_size: int = 5
) -> Iterator[Services]:
    """The services of ``settings``; closed with the block."""
    engine = settings.engine(application, pool_size=pool_size)
    wake_ups = WakeUps(settings.broker_url)
    try:
        yield Services(settings, engine, settings.objects(), wake_ups)
    finally:
        wake_ups.close()
        engine.dispose()


def wait_until_migrated(engine: Engine, pause: Callable[[float], bool]) -> bool:
    """Return once this code can work with the schema; False: it was stopped before.

    ``pause`` lets seconds pass and says whether to stop. A database that does not answer is
    waited for as well. Each reason to wait is logged once.
    """
    said: str | None = None
    while True:
        try:
            reason = database.behind(engine)
        except Exception as error:  # noqa: BLE001 (whoever waits must go on waiting)
            reason = f"the database does not answer: {getattr(error, 'orig', error)}"
        if reason is None:
            return True
        if reason != said:
            _log.warning("waiting: %s", reason)
            said = reason
        if pause(SCHEMA_LOOK_S):
            return False
