"""Schedules fire once per fire time: on time, after an outage, while changed, in a race."""

from datetime import timedelta
from uuid import UUID

import pytest

from jobs.problems import BadInputError, ConflictError, NotFoundError
from jobs.schedules import firing, requests
from jobs.services import Services
from storage import schedules, tenants
from tests.integration.doors import campaign
from tests.integration.ledger_cases import execute, no_errors, rows, together, value
from tests.integration.schedule_cases import (
    add,
    all_told,
    at,
    fire,
    spec,
    start,
    sweep,
)


def test_on_time(services: Services, tenant_id: UUID) -> None:
    """A schedule fires when its time has come, not before, and once."""
    assert add(services, tenant_id, "11-24 01:30").next_fire_at == at("11-25 01:30")
    assert fire(services, "11-25 01:29:59") == 0
    assert fire(services, "11-25 01:30") == 1
    assert fire(services, "11-25 01:31") == 0
    assert all_told(services, tenant_id) == [("11-25 01:30", "due")]
    assert requests.show(services, tenant_id, "nightly").next_fire_at == at("11-26 01:30")


@pytest.mark.parametrize(
    ("timezone", "cron", "day", "expected"),
    [
        ("Europe/Berlin", "30 2 * * *", "03-28", ["03-29 01:00", "03-30 00:30"]),
        ("Europe/Berlin", "30 2 * * *", "10-24", ["10-25 00:30", "10-26 01:30"]),
        ("America/New_York", "30 2 * * *", "03-07", ["03-08 07:00", "03-09 06:30"]),
        ("America/New_York", "30 1 * * *", "10-31", ["11-01 05:30", "11-02 06:30"]),
    ],
)
def test_the_nights_of_a_clock_change(
    services: Services,
    tenant_id: UUID,
    *,
    timezone: str,
    cron: str,
    day: str,
    expected: list[str],
) -> None:
    """When the clock is set forward or back, there is one run that night and one the next."""
    add(services, tenant_id, f"{day} 12:00", cron=cron, timezone=timezone)
    for half_hours in range(96):
        firing.fire_due(services.engine, at(f"{day} 12:00") + timedelta(minutes=30 * half_hours))
    assert all_told(services, tenant_id) == [(time, "due") for time in expected]


OUTAGE = [f"11-24 {hour:02}:00" for hour in range(11, 24)] + [
    f"11-25 {hour:02}:00" for hour in range(11)
]


@pytest.mark.parametrize(
    ("catch_up", "back", "due"),
    [
        ("skip", "11-25 10:30", []),
        ("skip", "11-25 10:04", ["11-25 10:00"]),
        ("once", "11-25 10:30", ["11-25 10:00"]),
        ("once", "11-25 10:04", ["11-25 09:00", "11-25 10:00"]),
        ("all", "11-25 10:30", OUTAGE),
    ],
)
def test_an_outage_of_a_day(
    services: Services, tenant_id: UUID, catch_up: str, back: str, due: list[str]
) -> None:
    """Every missed fire is on record: none of them runs, the newest one, or all, as it was said.

    The one that is noticed within five minutes has not been missed.
    """
    add(services, tenant_id, "11-24 10:30", cron="0 * * * *", catch_up=catch_up)
    assert fire(services, back) == 24
    assert all_told(services, tenant_id) == [
        (time, "due" if time in due else "skipped missed") for time in OUTAGE
    ]
    assert fire(services, back) == 0


@pytest.mark.parametrize(("catch_up", "due"), [("skip", 0), ("once", 1), ("all", 24)])
def test_a_long_outage_is_recorded_in_portions(
    services: Services,
    tenant_id: UUID,
    monkeypatch: pytest.MonkeyPatch,
    catch_up: str,
    due: int,
) -> None:
    """Each pass records a portion of each schedule, and in the end it is the same."""
    monkeypatch.setattr(firing, "FIRES_AT_ONCE", 5)
    add(services, tenant_id, "11-24 10:30", cron="0 * * * *", catch_up=catch_up)
    add(services, tenant_id, "11-24 10:30", name="other", cron="0 * * * *")
    assert [fire(services, "11-25 10:30") for _ in range(6)] == [10, 10, 10, 10, 8, 0]
    found = all_told(services, tenant_id)
    assert [time for time, _ in found] == OUTAGE
    assert [what for _, what in found] == ["skipped missed"] * (24 - due) + ["due"] * due


def test_blackout_dates(services: Services, tenant_id: UUID) -> None:
    """A fire on a blackout date, by the local calendar, is skipped; once makes up for another."""
    add(
        services,
        tenant_id,
        "11-20 12:00",
        cron="30 0 * * *",
        timezone="Europe/Berlin",
        blackout_dates=["2020-11-21", "2020-11-23", "2020-11-24"],
    )
    fire(services, "11-20 23:30")
    fire(services, "11-24 12:00")
    assert all_told(services, tenant_id) == [
        ("11-20 23:30", "skipped blackout"),
        ("11-21 23:30", "due"),
        ("11-22 23:30", "skipped blackout"),
        ("11-23 23:30", "skipped blackout"),
    ]


def test_late_work_that_expires_is_not_made_up_for(services: Services, tenant_id: UUID) -> None:
    """After its window, a run whose late jobs would expire is skipped; within it, it is due."""
    add(
        services,
        tenant_id,
        "11-22 12:00",
        window="01:00-06:00",
        late="expire",
        catch_up="all",
    )
    fire(services, "11-24 05:00")
    assert all_told(services, tenant_id) == [
        ("11-23 01:30", "skipped window_ended"),
        ("11-24 01:30", "due"),
    ]


def test_schedulers_in_a_race(services: Services, tenant_id: UUID) -> None:
    """However many schedulers fire at once, there is one run per schedule and fire time."""
    for number in range(12):
        add(services, tenant_id, "11-24 10:30", name=f"{number}", cron="0 * * * *", catch_up="all")
    with no_errors(services.engine):
        recorded = together(*[lambda: fire(services, "11-25 10:30")] * 4)
    assert sum(recorded) == 12 * 24
    assert value(services.engine, "SELECT count(*) FROM schedule_runs") == 12 * 24
    assert sum(together(*[lambda: fire(services, "11-25 10:30")] * 4)) == 0


def test_a_scheduler_does_not_wait_for_another(services: Services, tenant_id: UUID) -> None:
    """A schedule that one is firing is passed by; nothing is recorded twice after it."""
    view = add(services, tenant_id, "11-24 12:00")
    with services.engine.begin() as connection:
        assert schedules.lock(connection, view.id)
        assert fire(services, "11-25 01:30") == 0
    assert fire(services, "11-25 01:30") == 1


def test_one_that_cannot_be_fired(services: Services, tenant_id: UUID) -> None:
    """A schedule that fails does not hold up the others, and is not lost."""
    add(services, tenant_id, "11-24 12:00", name="broken", cron="0 1 * * *")
    add(services, tenant_id, "11-24 12:00")
    execute(services.engine, "UPDATE schedules SET timezone = 'No/Where' WHERE name = 'broken'")
    assert fire(services, "11-25 01:31") == 1
    execute(services.engine, "UPDATE schedules SET timezone = 'UTC' WHERE name = 'broken'")
    assert fire(services, "11-25 01:32") == 1
    assert all_told(services, tenant_id, "broken") == [("11-25 01:00", "due")]


def test_a_schedule_is_changed_between_fires(services: Services, tenant_id: UUID) -> None:
    """What was due by the change runs as the schedule was, what comes later as it is now."""
    view = add(services, tenant_id, "11-24 12:00", campaign=campaign(name="Old"), overlap="allow")
    fire(services, "11-25 01:30")
    # The fire of the 26th is due but nobody has looked; the new line would fire at that time too.
    changed = requests.replace(
        services,
        tenant_id,
        view.id,
        spec(cron="30 1,2 * * *", campaign=campaign(name="New"), overlap="allow"),
        now=at("11-26 01:31"),
    )
    assert (changed.id, changed.next_fire_at) == (view.id, at("11-26 02:30"))
    assert sweep(services, "11-26 02:30") == 3
    assert all_told(services, tenant_id) == [
        ("11-25 01:30", "started"),
        ("11-26 01:30", "started"),
        ("11-26 02:30", "started"),
    ]
    names = rows(
        services.engine,
        "SELECT name FROM schedule_runs JOIN campaigns ON campaigns.id = campaign_id"
        " ORDER BY fire_time",
    )
    assert [row.name for row in names] == ["Old", "Old", "New"]


def test_put_adds_or_replaces(services: Services, tenant_id: UUID) -> None:
    """By name, the same schedule is changed; an unknown name is a new one."""
    first = requests.put(services, tenant_id, spec())
    second = requests.put(services, tenant_id, spec(cron="0 3 * * *"))
    assert (second.id, second.cron) == (first.id, "0 3 * * *")
    assert second.updated_at > first.updated_at
    other = requests.put(services, tenant_id, spec(name="other"))
    assert [view.id for view in requests.every(services, tenant_id)] == [first.id, other.id]


def test_a_name_is_unique(services: Services, tenant_id: UUID) -> None:
    """Neither add nor replace gives a name twice within a tenant; another tenant may have it."""
    add(services, tenant_id, "11-24 12:00")
    other = add(services, tenant_id, "11-24 12:00", name="other")
    with pytest.raises(ConflictError, match="there is a schedule 'nightly' already"):
        add(services, tenant_id, "11-24 12:00")
    with pytest.raises(ConflictError, match="there is a schedule 'nightly' already"):
        requests.replace(services, tenant_id, other.id, spec())
    with services.engine.begin() as connection:
        stranger = tenants.ensure(connection, "stranger")
    add(services, stranger, "11-24 12:00")


def test_a_paused_schedule(services: Services, tenant_id: UUID) -> None:
    """What was due when it was paused runs; the fires of the pause are not missed but none."""
    add(services, tenant_id, "11-24 12:00", catch_up="all")
    paused = requests.pause(services, tenant_id, "nightly", now=at("11-25 01:31"))
    assert paused.paused_at == at("11-25 01:31")
    assert requests.pause(services, tenant_id, "nightly", now=at("11-26 12:00")) == paused
    assert fire(services, "11-27 12:00") == 0
    assert requests.upcoming(services, tenant_id, "nightly", 3, now=at("11-27 12:00")) == []
    resumed = requests.resume(services, tenant_id, "nightly", now=at("11-27 12:00"))
    assert (resumed.paused_at, resumed.next_fire_at) == (None, at("11-28 01:30"))
    assert requests.resume(services, tenant_id, "nightly", now=at("11-29 12:00")) == resumed
    assert fire(services, "11-28 01:30") == 1
    assert all_told(services, tenant_id) == [("11-25 01:30", "due"), ("11-28 01:30", "due")]


def test_what_is_next(services: Services, tenant_id: UUID) -> None:
    """The fires to come are shown in local time, with their windows and blackout dates."""
    add(
        services,
        tenant_id,
        "11-24 12:00",
        cron="0 22 * * *",
        timezone="Europe/Berlin",
        window="01:00-06:00",
        blackout_dates=["2020-11-25"],
    )
    first, second = requests.upcoming(services, tenant_id, "nightly", 2, now=at("11-24 12:00"))
    assert first.fire_time == at("11-24 21:00")
    assert first.local_time.isoformat() == "2020-11-24T22:00:00+01:00"
    # The window of the 25th does not open: the jobs wait for that of the 26th.
    assert (first.skipped, first.opens_at, first.closes_at) == (
        False,
        at("11-26 00:00"),
        at("11-26 05:00"),
    )
    assert (second.fire_time, second.skipped, second.opens_at) == (at("11-25 21:00"), True, None)


def test_a_schedule_is_removed(services: Services, tenant_id: UUID) -> None:
    """Its history and its due runs go with it, its campaigns stay, and the name is free."""
    add(services, tenant_id, "11-24 12:00")
    assert sweep(services, "11-25 01:30") == 1
    fire(services, "11-26 01:30")
    requests.remove(services, tenant_id, "nightly")
    assert start(services, "11-26 01:30") == 0
    assert value(services.engine, "SELECT count(*) FROM schedule_runs") == 0
    assert value(services.engine, "SELECT count(*) FROM campaigns") == 1
    with pytest.raises(NotFoundError, match="there is no schedule nightly"):
        requests.remove(services, tenant_id, "nightly")
    add(services, tenant_id, "11-26 12:00")


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (
            {"model": "x"},
            "campaign.model: unknown model 'x'; known: debug-caption",
        ),
        (
            {"creatives": [{"name": "hero", "prompt": "{{ product | x }}"}]},
            "campaign.creatives[0].prompt: template line 1, character 14: unknown filter 'x'",
        ),
        (
            {"recipients": {"id": "id", "rows": [{"id": 1}]}},
            "campaign.creatives[0].prompt: column 'product' is missing, in recipients.rows[0]",
        ),
        (
            {"recipients": {"id": "id", "rows": [{"id": 1, "product": "a"}] * 2}},
            "campaign.id: recipient id '1' stands on rows 1, 2; each recipient must occur once",
        ),
        (
            {"recipients": {"id": "id", "rows": []}},
            "campaign.recipients.rows: has no recipients",
        ),
    ],
)
def test_the_whole_campaign_is_checked(
    services: Services, tenant_id: UUID, given: dict[str, object], problem: str
) -> None:
    """What a night would fail on is refused when the schedule is added or changed."""
    bad = spec(campaign={**campaign(), **given})
    with pytest.raises(BadInputError) as caught:
        requests.add(services, tenant_id, bad)
    assert str(caught.value).startswith(problem)
    assert requests.every(services, tenant_id) == []
    view = add(services, tenant_id, "11-24 12:00")
    with pytest.raises(BadInputError):
        requests.replace(services, tenant_id, view.id, bad)
    assert requests.show(services, tenant_id, view.id) == view


def test_a_schedule_whose_run_is_being_started(
    services: Services, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever would change it meanwhile is told so soon, and does not wait for a million rows."""
    monkeypatch.setattr(schedules, "LOCK_WAIT_S", 0.2)
    schedule_id = add(services, tenant_id, "11-24 00:00").id
    with services.engine.begin() as connection:
        assert schedules.lock(connection, schedule_id)
        with pytest.raises(ConflictError, match="being started"):
            requests.pause(services, tenant_id, "nightly")
    assert requests.pause(services, tenant_id, "nightly").paused_at
