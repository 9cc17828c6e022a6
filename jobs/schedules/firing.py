"""Which runs of a schedule have come due, recorded so that no scheduler can fire one again."""

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import chain, islice
from uuid import UUID

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from jobs.schedules.definition import Definition
from jobs.schedules.times import local_day
from storage import schedule_runs, schedules
from storage.schedule_runs import Fire
from storage.schedules import ScheduleView

GRACE = timedelta(minutes=5)
"""A fire that is noticed later than this was missed, and is a matter of ``catch_up``."""
FIRES_AT_ONCE = 500


_log = logging.getLogger(__name__)


def fire_due(engine: Engine, now: datetime) -> int:
    """Record what has come due by ``now``: a chunk for each schedule; how many runs."""
    recorded = 0
    seen: list[UUID] = []
    while True:
        with engine.begin() as connection:
            schedule = schedules.next_due(connection, now, seen)
            if schedule is None:
                return recorded
            seen.append(schedule.id)
            try:
                recorded += _record_chunk(connection, schedule, now)[0]
            except DBAPIError:
                raise
            except Exception:  # noqa: BLE001 (cronsim's own errors have no other base)
                # Such as a time zone that this host does not know: the others still fire.
                _log.exception("schedule %s cannot be fired", schedule.name)


def record_all(connection: Connection, schedule: ScheduleView, now: datetime) -> None:
    """Record all that has come due of a schedule that the caller has locked."""
    next_fire_at = schedule.next_fire_at
    while schedule.paused_at is None and next_fire_at is not None and next_fire_at <= now:
        _, next_fire_at = _record_chunk(connection, schedule, now, next_fire_at)


def _record_chunk(
    connection: Connection,
    schedule: ScheduleView,
    now: datetime,
    next_fire_at: datetime | None = None,
) -> tuple[int, datetime | None]:
    """How many runs were recorded, and the fire time that is next."""
    definition = Definition.of(schedule.definition)
    first = next_fire_at or schedule.next_fire_at
    assert first is not None
    # One more than a chunk, which tells what is left.
    times = chain([first], definition.cron.after(first))
    chunk = list(islice(times, FIRES_AT_ONCE + 1))
    due = [time for time in chunk[:FIRES_AT_ONCE] if time <= now]
    following = chunk[len(due)] if len(due) < len(chunk) else None
    recorded = schedule_runs.record(connection, schedule.id, fires(definition, due, following, now))
    schedules.change(connection, schedule.id, next_fire_at=following)
    return recorded, following


def fires(
    definition: Definition, due: Sequence[datetime], following: datetime | None, now: datetime
) -> list[Fire]:
    """What becomes of the fire times ``due``, which ``following`` is the next one behind."""
    found = [Fire(time, _hindrance(definition, time, now)) for time in due]
    made_up = [fire.time for fire in found if fire.reason is None and _missed(fire.time, now)]
    if definition.catch_up == "skip":
        made_up = []
    elif definition.catch_up == "once":
        # The newest, unless a newer one is still to be recorded.
        more = following is not None and _missed(following, now)
        made_up = [] if more else made_up[-1:]
    missed = {"code": "missed", "message": "nothing ran when it was due; see catch_up"}
    return [
        Fire(fire.time, missed)
        if fire.reason is None and _missed(fire.time, now) and fire.time not in made_up
        else fire
        for fire in found
    ]


def _missed(time: datetime, now: datetime) -> bool:
    return now - time > GRACE


def _hindrance(definition: Definition, time: datetime, now: datetime) -> dict[str, str] | None:
    """Why no campaign can come of a fire, whatever was missed."""
    day = local_day(time, definition.cron.timezone)
    if day in definition.blackout:
        return {"code": "blackout", "message": f"{day} is a blackout date"}
    return window_ended(definition, time, now)


def window_ended(definition: Definition, time: datetime, now: datetime) -> dict[str, str] | None:
    """The reason for a run whose late jobs expire and whose window is over by ``now``."""
    window = definition.window
    if window is None or window.late == "wait":
        return None
    terms = window.terms(time, now)
    if now < terms.closes_at or terms.reopens_at is not None:
        return None
    return {"code": "window_ended", "message": f"its run window ended at {terms.closes_at}"}
