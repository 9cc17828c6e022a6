"""A schedule's definition as the arithmetic needs it, from its row or from a run's copy of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, time
from typing import Any, Literal, Self
from zoneinfo import ZoneInfo

from jobs.schedules.times import Cron, Window

CatchUp = Literal["skip", "once", "all"]
Overlap = Literal["skip", "queue", "allow"]


@dataclass(frozen=True)
class Definition:
    """When a schedule fires, and under which conditions its runs start."""

    cron: Cron
    window: Window | None
    blackout: frozenset[date]
    catch_up: CatchUp
    overlap: Overlap
    campaign: Mapping[str, Any]

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Self:
        """From the columns that `storage.schedules.DEFINITION` names."""
        timezone = ZoneInfo(stored["timezone"])
        return cls(
            cron=Cron(stored["cron"], timezone),
            window=stored_window(stored),
            blackout=frozenset(map(date.fromisoformat, stored["blackout_dates"])),
            catch_up=stored["catch_up"],
            overlap=stored["overlap"],
            campaign=stored["campaign"],
        )


WINDOW = ("timezone", "window", "late", "blackout_dates")
"""What of a definition a campaign keeps, to know its own windows."""


def stored_window(stored: Mapping[str, Any]) -> Window | None:
    """The window of a definition, or of a campaign's ``run_window``."""
    if stored["window"] is None:
        return None
    start, end = stored["window"].split("-")
    return Window(
        start=time.fromisoformat(start),
        end=time.fromisoformat(end),
        timezone=ZoneInfo(stored["timezone"]),
        late=stored["late"],
        blackout=frozenset(map(date.fromisoformat, stored["blackout_dates"])),
    )
