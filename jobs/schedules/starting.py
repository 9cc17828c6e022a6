"""How a run that is due becomes a campaign, at most once."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from jobs import files, submissions
from jobs.campaigns import file as campaign_file
from jobs.campaigns.file import CampaignSpec
from jobs.campaigns.keys import dated
from jobs.files import RecipientsFile
from jobs.problems import BadInputError
from jobs.schedules.definition import WINDOW, Definition
from jobs.schedules.firing import window_ended
from jobs.schedules.times import local_day
from jobs.services import Services
from storage import schedule_runs
from storage.ledger.submit import NewWindow
from storage.lifecycle import RunStatus, RunTrigger
from storage.objects import ObjectMissingError, ObjectStoreError
from storage.schedule_runs import DueRun

RETRY = timedelta(minutes=1)
"""How soon recipients that are not there are looked for again."""
PATIENCE = timedelta(hours=1)
"""How long they are, for a run without a window; otherwise until the window's end."""
QUEUE_LOOK = timedelta(seconds=10)
"""How soon a run looks again whether the one before it is over."""

_log = logging.getLogger(__name__)


def start_due(services: Services, now: datetime) -> int:
    """Try each run that is due by ``now`` once, oldest first; how many have started."""
    started = 0
    seen: list[UUID] = []
    while True:
        with services.engine.begin() as connection:
            run_id = schedule_runs.next_due(connection, now, seen)
        if run_id is None:
            return started
        seen.append(run_id)
        started += start_run(services, run_id, now) is not None


def start_run(services: Services, run_id: UUID, now: datetime) -> UUID | None:
    """Start the run, and give its campaign; None: not now, or never, as its row then says.

    Campaign, recipients and the run's new state are one transaction, under the lock on the
    schedule: whoever dies on the way leaves the run due.
    """
    run: DueRun | None = None
    try:
        with services.engine.begin() as connection:
            run = schedule_runs.take(connection, run_id)
            if run is None:
                return None
            definition = Definition.of(run.definition)
            if _is_held_up(connection, run, definition, now):
                return None
            spec = campaign_file.from_mapping(dict(definition.campaign))
            with _recipients(services, run, definition, spec) as file:
                campaign_id = submissions.store_campaign(
                    services,
                    connection,
                    run.tenant_id,
                    spec,
                    file,
                    window=_window(run, definition, now),
                )
            schedule_runs.start(connection, run_id, campaign_id)
    except BadInputError as error:
        _fail(services, run_id, _bad_input(error))
        return None
    except Exception as error:  # one run that cannot be started must not hold up the others
        if run is None:
            raise
        _try_again(services, run, now, error)
        return None
    _log.info("schedule %s: run of %s is campaign %s", run.name, run.fire_time, campaign_id)
    return campaign_id


def _is_held_up(connection: Connection, run: DueRun, definition: Definition, now: datetime) -> bool:
    """Whether the run may not start now; if so, its row says why."""
    if run.trigger is RunTrigger.CRON:
        ended = window_ended(definition, run.fire_time, now)
        if ended:
            schedule_runs.settle(connection, run.id, RunStatus.SKIPPED, ended)
            return True
    if definition.overlap == "allow":
        return False
    earlier = schedule_runs.unfinished_before(connection, run)
    if earlier is None:
        return False
    reason = {"code": "overlap", "message": f"the run of {earlier} is not over"}
    if definition.overlap == "skip":
        schedule_runs.settle(connection, run.id, RunStatus.SKIPPED, reason)
    else:
        schedule_runs.put_off(connection, run.id, now + QUEUE_LOOK, reason)
    return True


@contextmanager
def _recipients(
    services: Services, run: DueRun, definition: Definition, spec: CampaignSpec
) -> Iterator[RecipientsFile | None]:
    if spec.recipients.bucket is None:
        yield None
        return
    key = _key(run, definition)
    with files.opened(services, run.tenant_id, key) as file:
        yield file


def _key(run: DueRun, definition: Definition) -> str:
    """The recipients' file of the day on which the run's clock stood when it fired."""
    day = local_day(run.fire_time, definition.cron.timezone)
    return dated(definition.campaign["recipients"]["bucket"], day)


def _window(run: DueRun, definition: Definition, now: datetime) -> NewWindow | None:
    if definition.window is None or run.trigger is RunTrigger.MANUAL:
        return None
    terms = definition.window.terms(run.fire_time, now)
    return NewWindow(
        terms.closes_at, terms.reopens_at, {name: run.definition[name] for name in WINDOW}
    )


def _bad_input(error: BadInputError) -> dict[str, Any]:
    return {
        "code": "bad_input",
        "message": str(error),
        "problems": [problem.as_dict() for problem in error.problems],
    }


def _try_again(services: Services, run: DueRun, now: datetime, error: Exception) -> None:
    """Put the run off, or give it up once it has not started in time.

    If the answer to a COMMIT was lost and the run has started, this changes nothing.
    """
    if isinstance(error, ObjectStoreError):
        reason = {"code": "store_unreachable", "message": f"the bucket does not answer: {error}"}
        if isinstance(error, ObjectMissingError):
            reason = {
                "code": "file_missing",
                "message": files.missing(_key(run, Definition.of(run.definition))),
            }
    else:
        _log.error("schedule %s: run of %s", run.name, run.fire_time, exc_info=error)
        message = f"{type(error).__name__}; the sweeper's log has more"
        reason = {"code": "unexpected", "message": message}
    give_up_at = run.give_up_at or _give_up_at(run, now)
    if now >= give_up_at:
        _fail(services, run.id, {**reason, "message": f"{reason['message']}; given up"})
        return
    _log.warning("schedule %s: run of %s waits: %s", run.name, run.fire_time, reason["message"])
    with services.engine.begin() as connection:
        schedule_runs.put_off(connection, run.id, min(now + RETRY, give_up_at), reason, give_up_at)


def _give_up_at(run: DueRun, now: datetime) -> datetime:
    try:
        window = Definition.of(run.definition).window
    except (LookupError, ValueError):  # which may be the error that it is about
        window = None
    if window is None or run.trigger is RunTrigger.MANUAL:
        return now + PATIENCE
    return next(window.openings(now)).closes_at


def _fail(services: Services, run_id: UUID, reason: dict[str, Any]) -> None:
    _log.error("scheduled run %s has failed: %s", run_id, reason["message"])
    with services.engine.begin() as connection:
        # It changes nothing if someone has started the run since.
        schedule_runs.settle(connection, run_id, RunStatus.FAILED, reason)
