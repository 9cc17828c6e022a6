"""What a tenant may ask about its schedules; what is not there, or another's, is not found."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from uuid import UUID

from sqlalchemy import Connection

from jobs import submissions
from jobs.problems import BadInputError, ConflictError, NotFoundError, Problem
from jobs.schedules import firing
from jobs.schedules.definition import Definition
from jobs.schedules.file import ScheduleSpec
from jobs.schedules.times import local_day
from jobs.services import Services
from storage import schedule_runs, schedules
from storage.lifecycle import RunTrigger
from storage.schedule_runs import Fire, RunView
from storage.schedules import DuplicateScheduleError, ScheduleBusyError, ScheduleView


@dataclass(frozen=True)
class Upcoming:
    """A fire to come. Without ``opens_at``, its jobs may start at any time from then on.

    ``skipped``: the fire falls on a blackout date.
    """

    fire_time: datetime
    local_time: datetime
    skipped: bool
    opens_at: datetime | None
    closes_at: datetime | None


def add(
    services: Services, tenant_id: UUID, spec: ScheduleSpec, *, now: datetime | None = None
) -> ScheduleView:
    """Check the schedule with its whole campaign and store it.

    ``now`` is the database's time unless it is given; so it is in all that follows.

    Raises:
        BadInputError: nothing was created.
        ConflictError: the name is taken.
    """
    with services.engine.begin() as connection, _name_taken(spec):
        _check(connection, tenant_id, spec)
        moment = now or schedules.now(connection)
        definition = spec.definition
        schedules.add(
            connection, tenant_id, spec.fields.name, definition, _next_fire(definition, moment)
        )
        return _found(connection, tenant_id, spec.fields.name)


def replace(
    services: Services,
    tenant_id: UUID,
    wanted: UUID | str,
    spec: ScheduleSpec,
    *,
    now: datetime | None = None,
) -> ScheduleView:
    """Give a schedule another definition from now on; what is due by now starts under the old one.

    Raises:
        BadInputError: nothing was changed.
        ConflictError: the name is another schedule's.
    """
    with services.engine.begin() as connection, _name_taken(spec):
        _check(connection, tenant_id, spec)
        schedule = _found(connection, tenant_id, wanted, lock=True)
        moment = now or schedules.now(connection)
        firing.record_all(connection, schedule, moment)
        schedule_runs.keep_definition(connection, schedule)
        definition = spec.definition
        schedules.redefine(
            connection,
            schedule.id,
            spec.fields.name,
            definition,
            _next_fire(definition, moment),
        )
        return _found(connection, tenant_id, schedule.id)


def put(services: Services, tenant_id: UUID, spec: ScheduleSpec) -> ScheduleView:
    """`replace` the schedule of the same name; `add` it where there is none."""
    try:
        return replace(services, tenant_id, spec.fields.name, spec)
    except NotFoundError:
        return add(services, tenant_id, spec)


def show(services: Services, tenant_id: UUID, wanted: UUID | str) -> ScheduleView:
    """The schedule of that id or name."""
    with services.engine.begin() as connection:
        return _found(connection, tenant_id, wanted)


def every(services: Services, tenant_id: UUID) -> list[ScheduleView]:
    """The tenant's schedules by name."""
    with services.engine.begin() as connection:
        return schedules.every(connection, tenant_id)


def pause(
    services: Services, tenant_id: UUID, wanted: UUID | str, *, now: datetime | None = None
) -> ScheduleView:
    """Let it fire no more until it is resumed; what is due by now still starts."""
    with services.engine.begin() as connection:
        schedule = _found(connection, tenant_id, wanted, lock=True)
        if schedule.paused_at is None:
            moment = now or schedules.now(connection)
            firing.record_all(connection, schedule, moment)
            schedules.change(connection, schedule.id, paused_at=moment)
        return _found(connection, tenant_id, schedule.id)


def resume(
    services: Services, tenant_id: UUID, wanted: UUID | str, *, now: datetime | None = None
) -> ScheduleView:
    """Let it fire again from now on; what would have fired meanwhile was not missed."""
    with services.engine.begin() as connection:
        schedule = _found(connection, tenant_id, wanted, lock=True)
        if schedule.paused_at is not None:
            moment = now or schedules.now(connection)
            schedules.change(
                connection,
                schedule.id,
                paused_at=None,
                next_fire_at=_next_fire(schedule.definition, moment),
            )
        return _found(connection, tenant_id, schedule.id)


def run_now(
    services: Services, tenant_id: UUID, wanted: UUID | str, *, now: datetime | None = None
) -> RunView:
    """Have a run start whatever window, blackout dates and pause say; its campaign comes soon.

    Raises:
        ConflictError: there is a run of this very moment.
    """
    with services.engine.begin() as connection:
        # Without the lock, which may be held for as long as it takes to store all recipients.
        schedule = _found(connection, tenant_id, wanted)
        moment = now or schedules.now(connection)
        if not schedule_runs.record(connection, schedule.id, [Fire(moment)], RunTrigger.MANUAL):
            raise ConflictError(f"there is a run of {moment} already")
        just_behind = moment + timedelta(microseconds=1)
        return schedule_runs.history(connection, schedule.id, before=just_behind, limit=1)[0]


def upcoming(
    services: Services,
    tenant_id: UUID,
    wanted: UUID | str,
    count: int,
    *,
    now: datetime | None = None,
) -> list[Upcoming]:
    """The next ``count`` fires; none while it is paused."""
    with services.engine.begin() as connection:
        schedule = _found(connection, tenant_id, wanted)
        moment = now or schedules.now(connection)
    if schedule.paused_at is not None:
        return []
    definition = Definition.of(schedule.definition)
    return [_upcoming(definition, fire) for fire in islice(definition.cron.after(moment), count)]


def _upcoming(definition: Definition, fire: datetime) -> Upcoming:
    timezone = definition.cron.timezone
    skipped = local_day(fire, timezone) in definition.blackout
    opening = next(definition.window.openings(fire)) if definition.window and not skipped else None
    return Upcoming(
        fire_time=fire,
        local_time=fire.astimezone(timezone),
        skipped=skipped,
        opens_at=opening.opens_at if opening else None,
        closes_at=opening.closes_at if opening else None,
    )


def history(
    services: Services,
    tenant_id: UUID,
    wanted: UUID | str,
    *,
    before: datetime | None = None,
    limit: int = 50,
) -> list[RunView]:
    """The schedule's runs, the newest fire first, from before the fire time ``before``."""
    with services.engine.begin() as connection:
        schedule = _found(connection, tenant_id, wanted)
        return schedule_runs.history(connection, schedule.id, before=before, limit=limit)


def remove(services: Services, tenant_id: UUID, wanted: UUID | str) -> None:
    """Delete the schedule with its history and what is due; the campaigns it started stay."""
    with services.engine.begin() as connection:
        schedule = _found(connection, tenant_id, wanted, lock=True)
        schedules.remove(connection, tenant_id, schedule.id)


def _found(
    connection: Connection, tenant_id: UUID, wanted: UUID | str, *, lock: bool = False
) -> ScheduleView:
    try:
        found = schedules.find(connection, tenant_id, wanted, lock=lock)
    except ScheduleBusyError as error:
        raise ConflictError(
            "a run of the schedule is being started; try again when it has"
        ) from error
    if found is None:
        raise NotFoundError(f"there is no schedule {wanted}")
    return found


@contextmanager
def _name_taken(spec: ScheduleSpec) -> Iterator[None]:
    try:
        yield
    except DuplicateScheduleError as error:
        raise ConflictError(f"there is a schedule {spec.fields.name!r} already") from error


def _check(connection: Connection, tenant_id: UUID, spec: ScheduleSpec) -> None:
    try:
        submissions.check_campaign(connection, tenant_id, spec.campaign)
    except BadInputError as error:
        raise BadInputError(*(_within(spec, problem) for problem in error.problems)) from error


def _within(spec: ScheduleSpec, problem: Problem) -> Problem:
    """What was found wrong with inline recipients has no place yet."""
    if (problem.field or "").startswith("campaign."):
        return problem
    return spec.campaign.place(problem)


def _next_fire(definition: dict[str, object], now: datetime) -> datetime | None:
    return next(Definition.of(definition).cron.after(now), None)
