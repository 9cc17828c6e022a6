"""What the tests of schedules are made of: schedules, passes of the sweeper, and what they left."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from jobs.campaigns.keys import object_key
from jobs.schedules import file as schedule_file
from jobs.schedules import firing, requests, starting
from jobs.schedules.file import ScheduleSpec
from jobs.services import Services
from storage.schedule_runs import RunView
from storage.schedules import ScheduleView
from tests.integration.doors import campaign, schedule

CSV = b"id,product\n1,mug\n2,cup\n"


def at(text: str) -> datetime:
    """A moment of 2020 in UTC, such as ``11-24 01:30``: by the database's clock, long ago."""
    return datetime.fromisoformat(f"2020-{text}").replace(tzinfo=UTC)


def spec(**changes: object) -> ScheduleSpec:
    """A schedule that fires at 01:30 UTC, with inline recipients."""
    return schedule_file.from_mapping(schedule(**{"timezone": "UTC", **changes}))


def from_bucket(key: str, **changes: object) -> dict[str, Any]:
    """A campaign whose recipients are in the bucket."""
    return {**campaign(), "recipients": {"id": "id", "bucket": key}, **changes}


def add(services: Services, tenant_id: UUID, now: str, **changes: object) -> ScheduleView:
    """A schedule that was added at a moment."""
    return requests.add(services, tenant_id, spec(**changes), now=at(now))


def fire(services: Services, now: str) -> int:
    """One pass of the service that fires, at a moment; how many runs were recorded."""
    return firing.fire_due(services.engine, at(now))


def start(services: Services, now: str) -> int:
    """One pass of the service that starts runs, at a moment; how many have started."""
    return starting.start_due(services, at(now))


def sweep(services: Services, now: str) -> int:
    """A pass of both."""
    fire(services, now)
    return start(services, now)


def runs(services: Services, tenant_id: UUID, name: str = "nightly") -> list[RunView]:
    """All runs of a schedule, the oldest fire first."""
    return requests.history(services, tenant_id, name, limit=100_000)[::-1]


def told(run: RunView) -> tuple[str, str]:
    """When a run fired, and what became of it: its status, or the code of its reason."""
    code = run.reason["code"] if run.reason else ""
    return run.fire_time.strftime("%m-%d %H:%M"), f"{run.status.value} {code}".strip()


def all_told(services: Services, tenant_id: UUID, name: str = "nightly") -> list[tuple[str, str]]:
    """The same of all runs."""
    return [told(run) for run in runs(services, tenant_id, name)]


def upload(services: Services, tenant_id: UUID, key: str, content: bytes = CSV) -> None:
    """Put a file of a tenant's into the bucket."""
    services.objects.put(object_key(tenant_id, key), content, "text/csv")


def of_run(run: RunView, name: str) -> Any:
    """A field of the reason of a run."""
    reason: Mapping[str, Any] = run.reason or {}
    return reason[name]
