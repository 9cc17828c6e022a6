"""The arithmetic of schedules: cron lines, local days and run windows. The time is passed in.

All moments that go in or come out are aware; those that come out are UTC.
"""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

FIELDS = 5
Late = Literal["wait", "expire"]

_DAY = timedelta(days=1)
_MINUTE = timedelta(minutes=1)
_SOME_TIME = datetime(2000, 1, 1, tzinfo=UTC)


def zone(name: str) -> ZoneInfo:
    """The time zone; ValueError says which one may have been meant."""
    known = available_timezones()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        meant = f"did you mean {close[0]!r}?" if close else "use a name such as Europe/Berlin"
        raise ValueError(f"unknown time zone {name!r}; {meant}")
    return ZoneInfo(name)


@dataclass(frozen=True)
class Cron:
    """A cron line of five fields, in the local time of its zone.

    A line with a fixed hour and minute fires once per matching local time: in spring, a time that
    the clock leaves out fires when it goes on; in autumn, a time that comes twice fires the first
    time. A line with ``*`` as its hour or minute goes by elapsed time, so it fires in both hours.
    """

    line: str
    timezone: ZoneInfo

    def after(self, moment: datetime) -> Iterator[datetime]:
        """The fire times behind ``moment``, in order; nothing if there is none in 50 years."""
        last = moment
        for fire in CronSim(self.line, moment.astimezone(self.timezone)):
            # In the second of two equal hours, cronsim begins with the times of the first one.
            if (found := fire.astimezone(UTC)) > last:
                last = found
                yield found


def check_cron(line: str) -> None:
    """ValueError if ``line`` is no cron line, or never fires."""
    fields = "minute hour day-of-month month day-of-week"
    # Of six, cronsim takes the first for seconds.
    if len(line.split()) != FIELDS:
        raise ValueError(f"has {len(line.split())} fields, not five: {fields}")
    try:
        first = next(Cron(line, ZoneInfo("UTC")).after(_SOME_TIME), None)
    except CronSimError as error:
        raise ValueError(f"{str(error).lower()}; the fields are {fields}") from error
    if first is None:
        raise ValueError("never fires")


@dataclass(frozen=True)
class Opening:
    """One night of a run window."""

    opens_at: datetime
    closes_at: datetime


@dataclass(frozen=True)
class Terms:
    """When a campaign's jobs may start: until ``closes_at``, and again from ``reopens_at``."""

    closes_at: datetime
    reopens_at: datetime | None


@dataclass(frozen=True)
class Window:
    """The local hours in which jobs may start, from ``start`` to ``end``, maybe across midnight.

    It does not open on a day that is in ``blackout``.
    """

    start: time
    end: time
    timezone: ZoneInfo
    late: Late
    blackout: frozenset[date]

    def openings(self, moment: datetime) -> Iterator[Opening]:
        """The opening that holds ``moment``, if one does, and all that follow."""
        day = moment.astimezone(self.timezone).date() - _DAY
        while True:
            last_day = day + _DAY if self.end <= self.start else day
            opening = Opening(
                instant(day, self.start, self.timezone), instant(last_day, self.end, self.timezone)
            )
            # In spring, one that lies in the hour that is left out has no length.
            real = opening.opens_at < opening.closes_at
            if real and opening.closes_at > moment and day not in self.blackout:
                yield opening
            day += _DAY

    def terms(self, since: datetime, now: datetime) -> Terms:
        """Those of work that could have started from ``since`` on.

        Where late work expires, it has the first opening alone, be it over by ``now``; where it
        waits, the next one from ``now`` on.
        """
        openings = self.openings(since if self.late == "expire" else now)
        opening = next(openings)
        if now < opening.opens_at:
            return Terms(now, opening.opens_at)
        return Terms(opening.closes_at, None if self.late == "expire" else next(openings).opens_at)


def instant(day: date, local: time, timezone: ZoneInfo) -> datetime:
    """When the clock of ``timezone`` first shows ``local`` on ``day``, or would have."""
    wall = datetime.combine(day, local)
    while True:
        found = wall.replace(tzinfo=timezone).astimezone(UTC)
        if found.astimezone(timezone).replace(tzinfo=None) == wall:
            return found
        # Left out when the clock is set forward: as with cron, the first time that exists.
        wall += _MINUTE


def local_day(moment: datetime, timezone: ZoneInfo) -> date:
    """The day on which ``moment`` falls in ``timezone``."""
    return moment.astimezone(timezone).date()
