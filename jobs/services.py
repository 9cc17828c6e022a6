"""The services that a door works with, opened once per process."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Engine

from jobs.queue import WakeUps
from jobs.settings import Settings
from storage.objects import ObjectStore


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
