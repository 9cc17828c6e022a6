"""The arithmetic of schedules, around the clock and around its changes."""

from datetime import UTC, date, datetime, time
from itertools import islice
from zoneinfo import ZoneInfo

import pytest

from jobs.schedules.times import Cron, Late, Window, check_cron, instant, local_day, zone

BERLIN, NEW_YORK = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")


def at(text: str) -> datetime:
    """A moment in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def fires(line: str, timezone: ZoneInfo, after: str, count: int) -> list[str]:
    """Fire times as UTC without seconds."""
    found = list(islice(Cron(line, timezone).after(at(after)), count))
    assert all(fire.tzinfo is UTC for fire in found)
    return [fire.strftime("%m-%d %H:%M") for fire in found]


@pytest.mark.parametrize(
    ("line", "timezone", "after", "expected"),
    [
        # Set forward: 02:30 does not exist, 03:00 is the first time that does.
        ("30 2 * * *", BERLIN, "2026-03-27T12:00", ["03-28 01:30", "03-29 01:00", "03-30 00:30"]),
        ("30 2 * * *", NEW_YORK, "2026-03-06T12:00", ["03-07 07:30", "03-08 07:00", "03-09 06:30"]),
        ("0,30 2 * * *", BERLIN, "2026-03-28T12:00", ["03-29 01:00", "03-30 00:00"]),
        ("0 2,3 * * *", BERLIN, "2026-03-28T12:00", ["03-29 01:00", "03-30 00:00", "03-30 01:00"]),
        # Set back: 02:30 and 01:30 come twice, the first time counts.
        ("30 2 * * *", BERLIN, "2026-10-23T12:00", ["10-24 00:30", "10-25 00:30", "10-26 01:30"]),
        ("30 1 * * *", NEW_YORK, "2026-10-30T12:00", ["10-31 05:30", "11-01 05:30", "11-02 06:30"]),
        # Every hour is every hour.
        ("30 * * * *", BERLIN, "2026-10-24T23:45", ["10-25 00:30", "10-25 01:30", "10-25 02:30"]),
        ("0 * * * *", NEW_YORK, "2026-03-08T05:30", ["03-08 06:00", "03-08 07:00", "03-08 08:00"]),
    ],
)
def test_clock_changes(line: str, timezone: ZoneInfo, after: str, expected: list[str]) -> None:
    """A local time that is left out fires when the clock goes on, one that comes twice once."""
    assert fires(line, timezone, after, len(expected)) == expected


@pytest.mark.parametrize("timezone", [BERLIN, NEW_YORK])
@pytest.mark.parametrize("line", ["30 1 * * *", "15,45 2 * * *", "*/20 1-3 * * *", "0 */3 * * *"])
def test_going_on_from_anywhere(line: str, timezone: ZoneInfo) -> None:
    """Whatever moment of a year it is asked at, the next fire is the same as in one go."""
    cron = Cron(line, timezone)
    for change in ("2026-03-07", "2026-03-28", "2026-10-24", "2026-10-31"):
        known = list(islice(cron.after(at(f"{change}T00:00")), 40))
        assert known == sorted(set(known))
        for hour in range(48):
            for minute in (0, 10, 30, 50):
                moment = at(f"{change}T00:00").replace(minute=minute)
                moment = datetime.fromtimestamp(moment.timestamp() + hour * 3600, UTC)
                upcoming = [fire for fire in known if fire > moment]
                if upcoming:
                    assert next(cron.after(moment)) == upcoming[0]


def test_a_line_that_stops_matching() -> None:
    """A fire is behind the moment, never at it."""
    cron = Cron("0 12 1 1 *", ZoneInfo("UTC"))
    assert next(cron.after(at("2026-01-01T12:00"))) == at("2027-01-01T12:00")
    assert next(cron.after(at("2026-01-01T11:59:59"))) == at("2026-01-01T12:00")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("* * * *", "has 4 fields, not five"),
        ("0 * * * * *", "has 6 fields, not five"),
        ("@daily", "has 1 fields, not five"),
        ("60 * * * *", "bad minute; the fields are minute hour"),
        ("0 24 * * *", "bad hour"),
        ("0 0 30 2 *", "bad day-of-month"),
        ("0 0 * 2 MON#6", "bad day-of-week"),
    ],
)
def test_a_bad_cron_line(line: str, message: str) -> None:
    """What cannot be read, or never fires, is refused with the field that is wrong."""
    with pytest.raises(ValueError, match=message):
        check_cron(line)


def test_a_line_that_never_fires() -> None:
    """A line that is right in each field but has no day is refused as well."""
    check_cron("0 0 29 2 *")
    with pytest.raises(ValueError, match="never fires"):
        check_cron("0 0 LW * */6")  # the last weekday, on a weekend


def test_time_zones() -> None:
    """A zone that does not exist is refused, with the one that was meant."""
    assert zone("Europe/Berlin") == BERLIN
    for name in ("Europe/Berln", "America", "../etc/passwd", ""):
        with pytest.raises(ValueError, match=r"unknown time zone .*; (did you mean|use a name)"):
            zone(name)


def test_the_local_day() -> None:
    """One moment is on different days in different zones."""
    moment = at("2026-11-24T03:00")
    assert local_day(moment, BERLIN) == date(2026, 11, 24)
    assert local_day(moment, NEW_YORK) == date(2026, 11, 23)


@pytest.mark.parametrize(
    ("day", "local", "timezone", "expected"),
    [
        ("2026-11-24", "01:00", BERLIN, "2026-11-24T00:00"),
        ("2026-03-29", "02:30", BERLIN, "2026-03-29T01:00"),
        ("2026-10-25", "02:30", BERLIN, "2026-10-25T00:30"),
        ("2026-03-08", "02:00", NEW_YORK, "2026-03-08T07:00"),
        ("2026-11-01", "01:59", NEW_YORK, "2026-11-01T05:59"),
    ],
)
def test_local_times(day: str, local: str, timezone: ZoneInfo, expected: str) -> None:
    """A local time is the first moment at which the clock shows it, or passes it by."""
    found = instant(date.fromisoformat(day), time.fromisoformat(local), timezone)
    assert found == at(expected)


def window(
    hours: str = "01:00-06:00",
    late: Late = "wait",
    blackout: frozenset[date] = frozenset(),
    timezone: ZoneInfo = BERLIN,
) -> Window:
    """A window."""
    start, end = map(time.fromisoformat, hours.split("-"))
    return Window(start, end, timezone, late, blackout)


def openings(of: Window, moment: str, count: int = 2) -> list[tuple[str, str]]:
    """Openings as UTC."""
    return [
        (opening.opens_at.strftime("%m-%d %H:%M"), opening.closes_at.strftime("%m-%d %H:%M"))
        for opening in islice(of.openings(at(moment)), count)
    ]


@pytest.mark.parametrize("moment", ["2026-11-23T12:00", "2026-11-24T00:00", "2026-11-24T04:59"])
def test_the_opening_of_a_moment(moment: str) -> None:
    """Before a window and within it, it is the next one; its end is not part of it."""
    first = ("11-24 00:00", "11-24 05:00")
    second = ("11-25 00:00", "11-25 05:00")
    assert openings(window(), moment) == [first, second]
    assert openings(window(), "2026-11-24T05:00", 1) == [second]


def test_a_window_across_midnight() -> None:
    """It ends on the following day, and the day on which it opens decides about blackout dates."""
    late = window("22:00-04:00")
    assert openings(late, "2026-11-24T02:00") == [
        ("11-23 21:00", "11-24 03:00"),
        ("11-24 21:00", "11-25 03:00"),
    ]
    closed = window("22:00-04:00", blackout=frozenset({date(2026, 11, 24)}))
    assert openings(closed, "2026-11-24T02:00") == [
        ("11-23 21:00", "11-24 03:00"),
        ("11-25 21:00", "11-26 03:00"),
    ]


@pytest.mark.parametrize(
    ("hours", "timezone", "moment", "expected"),
    [
        ("01:00-06:00", BERLIN, "2026-03-28T23:00", ("03-29 00:00", "03-29 04:00")),
        ("01:00-06:00", BERLIN, "2026-10-24T20:00", ("10-24 23:00", "10-25 05:00")),
        ("01:00-06:00", NEW_YORK, "2026-03-08T05:00", ("03-08 06:00", "03-08 10:00")),
        ("01:00-06:00", NEW_YORK, "2026-11-01T04:00", ("11-01 05:00", "11-01 11:00")),
        # Within the hour that is left out there is no window that night.
        ("02:10-02:50", BERLIN, "2026-03-28T12:00", ("03-30 00:10", "03-30 00:50")),
    ],
)
def test_windows_at_clock_changes(
    hours: str, timezone: ZoneInfo, moment: str, expected: tuple[str, str]
) -> None:
    """A window is an hour shorter in spring and an hour longer in autumn."""
    assert openings(window(hours, timezone=timezone), moment, 1) == [expected]


@pytest.mark.parametrize(
    ("late", "since", "now", "closes_at", "reopens_at"),
    [
        ("wait", "24T00:30", "24T00:30", "24T05:00", "25T00:00"),
        ("wait", "23T20:00", "23T20:00", "23T20:00", "24T00:00"),  # before it opens
        ("wait", "24T00:30", "24T09:00", "24T09:00", "25T00:00"),  # looked at late
        ("wait", "24T00:30", "25T00:30", "25T05:00", "26T00:00"),
        ("expire", "24T00:30", "24T00:30", "24T05:00", None),
        ("expire", "23T20:00", "23T20:00", "23T20:00", "24T00:00"),
        ("expire", "24T00:30", "24T09:00", "24T05:00", None),  # it is over
        ("expire", "24T00:30", "25T00:30", "24T05:00", None),
    ],
)
def test_terms(late: Late, since: str, now: str, closes_at: str, reopens_at: str | None) -> None:
    """Work that waits has the next window; work that expires has the first one alone."""
    terms = window(late=late).terms(at(f"2026-11-{since}"), at(f"2026-11-{now}"))
    assert terms.closes_at == at(f"2026-11-{closes_at}")
    assert terms.reopens_at == (at(f"2026-11-{reopens_at}") if reopens_at else None)


def test_terms_pass_blackout_dates_by() -> None:
    """The next window is that of the first day that is open."""
    closed = window(blackout=frozenset({date(2026, 11, 25), date(2026, 11, 26)}))
    terms = closed.terms(at("2026-11-24T00:30"), at("2026-11-24T00:30"))
    assert terms.reopens_at == at("2026-11-27T00:00")
