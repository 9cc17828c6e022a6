"""A run becomes a campaign once, or says why not: crashes, races, overlaps, missing recipients."""

from contextlib import suppress
from dataclasses import replace
from uuid import UUID

import pytest
from sqlalchemy.exc import OperationalError

from jobs.schedules import requests, starting
from jobs.services import Services
from jobs.standalone import ports
from storage import schedules, tenants
from storage.ledger import cancel
from storage.objects import ObjectStore
from tests.integration.doors import campaign, rows
from tests.integration.ledger_cases import (
    at_commit,
    at_statement,
    check_books,
    execute,
    fan_out,
    finish_all,
    lose_commit,
    lose_commit_answer,
    no_errors,
    take_some,
    terminate,
    together,
    value,
)
from tests.integration.ledger_cases import rows as query
from tests.integration.schedule_cases import (
    add,
    all_told,
    at,
    fire,
    from_bucket,
    of_run,
    runs,
    start,
    sweep,
    upload,
)


def test_a_run_is_a_campaign(services: Services, tenant_id: UUID) -> None:
    """A run that is due becomes a campaign with its recipients, which the fan-out takes on."""
    add(services, tenant_id, "11-24 12:00")
    assert sweep(services, "11-25 01:30") == 1
    [run] = runs(services, tenant_id)
    assert (run.status, run.reason, run.next_try_at) == ("started", None, None)
    [stored] = query(services.engine, "SELECT * FROM campaigns")
    assert (stored.id, stored.name, stored.recipients) == (run.campaign_id, "Spring", 1)
    assert (stored.closes_at, stored.reopens_at, stored.run_window) == (None, None, None)
    assert start(services, "11-25 01:31") == 0
    assert fan_out(services.engine) == {run.campaign_id: 1}


def test_starters_in_a_race(services: Services, tenant_id: UUID) -> None:
    """However many sweepers start runs at once, each run has one campaign."""
    for number in range(6):
        add(services, tenant_id, "11-24 12:00", name=f"{number}", overlap="allow", catch_up="all")
    assert fire(services, "11-26 01:31") == 12
    with no_errors(services.engine):
        while sum(together(*[lambda: start(services, "11-26 01:31")] * 4)):
            pass
    assert value(services.engine, "SELECT count(*) FROM campaigns") == 12
    found = query(services.engine, "SELECT DISTINCT campaign_id FROM schedule_runs")
    assert len(found) == 12


@pytest.mark.parametrize(
    "statement",
    ["FOR UPDATE OF runs", "INSERT INTO campaigns", "UPDATE campaigns", "UPDATE schedule_runs"],
)
def test_a_scheduler_dies_between_firing_and_starting(
    services: Services, tenant_id: UUID, statement: str
) -> None:
    """Wherever it dies, nothing is stored and the run is due; the next one starts it, once."""
    add(services, tenant_id, "11-24 12:00")
    fire(services, "11-25 01:30")
    before = rows(services.engine)
    with (
        at_statement(services.engine, statement, terminate(services.engine)),
        suppress(OperationalError),
    ):
        start(services, "11-25 01:30")
    assert rows(services.engine) == before
    assert runs(services, tenant_id)[0].status == "due"
    assert start(services, "11-25 01:32") == 1
    assert start(services, "11-25 01:34") == 0
    assert rows(services.engine) == {**before, "campaigns": 1, "creatives": 1, "recipients": 1}


def test_the_commit_of_a_start_is_lost(services: Services, tenant_id: UUID) -> None:
    """If the connection ends before COMMIT, the run is tried again, and says so meanwhile."""
    add(services, tenant_id, "11-24 12:00")
    fire(services, "11-25 01:30")
    [run] = runs(services, tenant_id)
    with at_statement(services.engine, "UPDATE schedule_runs", lose_commit):
        assert starting.start_run(services, run.id, at("11-25 01:30")) is None
    assert all_told(services, tenant_id) == [("11-25 01:30", "due unexpected")]
    assert value(services.engine, "SELECT count(*) FROM campaigns") == 0
    assert start(services, "11-25 01:30:59") == 0
    assert start(services, "11-25 01:31") == 1


def test_the_answer_to_a_start_is_lost(services: Services, tenant_id: UUID) -> None:
    """If the COMMIT got through and nobody heard so, the run has started and does not again."""
    add(services, tenant_id, "11-24 12:00")
    fire(services, "11-25 01:30")
    [run] = runs(services, tenant_id)
    with at_commit(services.engine, lose_commit_answer):
        assert starting.start_run(services, run.id, at("11-25 01:30")) is None
    assert all_told(services, tenant_id) == [("11-25 01:30", "started")]
    assert start(services, "11-25 01:32") == 0
    assert value(services.engine, "SELECT count(*) FROM campaigns") == 1


def finish_campaign(services: Services) -> None:
    """Let all jobs there are succeed."""
    fan_out(services.engine)
    finish_all(services.engine, take_some(services.engine))


@pytest.mark.parametrize("manual", [False, True])
def test_overlap_skip(services: Services, tenant_id: UUID, *, manual: bool) -> None:
    """While a run's campaign is not over, a run by the clock or by hand is skipped for good."""
    add(services, tenant_id, "11-24 12:00", overlap="skip")
    assert sweep(services, "11-25 01:30") == 1
    if manual:
        requests.run_now(services, tenant_id, "nightly", now=at("11-26 01:30"))
    assert sweep(services, "11-26 01:30") == 0
    assert all_told(services, tenant_id)[1:] == [("11-26 01:30", "skipped overlap")]
    finish_campaign(services)
    assert sweep(services, "11-27 01:30") == 1


def test_overlap_queue(services: Services, tenant_id: UUID) -> None:
    """Runs wait for the one before them, whatever it waits for, and start in order."""
    add(services, tenant_id, "11-24 12:00", overlap="queue", catch_up="all")
    fire(services, "11-27 01:30")
    assert start(services, "11-27 01:30") == 1
    assert all_told(services, tenant_id) == [
        ("11-25 01:30", "started"),
        ("11-26 01:30", "due overlap"),
        ("11-27 01:30", "due overlap"),
    ]
    assert of_run(runs(services, tenant_id)[1], "message") == (
        "the run of 2020-11-25 01:30:00+00:00 is not over"
    )
    assert start(services, "11-27 01:40") == 0
    finish_campaign(services)
    assert start(services, "11-27 01:50") == 1
    assert [what for _, what in all_told(services, tenant_id)] == [
        "started",
        "started",
        "due overlap",
    ]
    second = runs(services, tenant_id)[1].campaign_id
    assert second
    # Still compiling: a cancelled campaign is over, although its jobs were never made.
    assert cancel.cancel_campaign(services.engine, tenant_id, second)
    assert start(services, "11-27 02:00") == 1


@pytest.mark.parametrize(
    ("overlap", "second"), [("queue", "due overlap"), ("skip", "skipped overlap")]
)
def test_a_run_that_has_not_started_is_in_the_way(
    services: Services, tenant_id: UUID, overlap: str, second: str
) -> None:
    """A run that still waits for its recipients counts as one that is not over."""
    add(
        services,
        tenant_id,
        "11-24 12:00",
        cron="30,45 1 * * *",
        overlap=overlap,
        campaign=from_bucket("list.csv"),
    )
    assert sweep(services, "11-25 01:30") == 0
    execute(services.engine, "UPDATE schedule_runs SET next_try_at = '2020-11-25 01:50+00'")
    upload(services, tenant_id, "list.csv")
    assert sweep(services, "11-25 01:45") == 0
    assert all_told(services, tenant_id) == [
        ("11-25 01:30", "due file_missing"),
        ("11-25 01:45", second),
    ]
    assert start(services, "11-25 01:50") == 1


def test_a_schedule_that_is_being_changed(services: Services, tenant_id: UUID) -> None:
    """A run does not start, nor wait, while another holds its schedule."""
    view = add(services, tenant_id, "11-24 12:00")
    fire(services, "11-25 01:30")
    with services.engine.begin() as connection:
        assert schedules.lock(connection, view.id)
        assert start(services, "11-25 01:30") == 0
    assert all_told(services, tenant_id) == [("11-25 01:30", "due")]
    assert start(services, "11-25 01:30") == 1


def test_overlap_allow(services: Services, tenant_id: UUID) -> None:
    """Runs start beside each other."""
    add(services, tenant_id, "11-24 12:00", overlap="allow", catch_up="all")
    fire(services, "11-27 01:30")
    assert start(services, "11-27 01:30") == 3


def test_run_now(services: Services, tenant_id: UUID) -> None:
    """A run by hand starts on a blackout date, outside the window, of a paused schedule."""
    add(
        services,
        tenant_id,
        "11-24 12:00",
        window="01:00-06:00",
        late="expire",
        blackout_dates=["2020-11-24"],
        campaign=from_bucket("lists/{date}.csv"),
    )
    upload(services, tenant_id, "lists/2020-11-24.csv")
    requests.pause(services, tenant_id, "nightly", now=at("11-24 12:00"))
    run = requests.run_now(services, tenant_id, "nightly", now=at("11-24 13:00"))
    assert (run.trigger, run.status, run.fire_time) == ("manual", "due", at("11-24 13:00"))
    # Late: no window ends for it.
    assert start(services, "11-25 07:00") == 1
    assert value(services.engine, "SELECT closes_at FROM campaigns") is None


@pytest.mark.parametrize(
    ("window", "last_try"), [(None, "11-25 02:30"), ("01:00-06:00", "11-25 06:00")]
)
def test_recipients_that_do_not_come(
    services: Services, tenant_id: UUID, window: str | None, last_try: str
) -> None:
    """They are looked for every minute until the window's end or for an hour, and then no more."""
    add(
        services,
        tenant_id,
        "11-24 12:00",
        window=window,
        campaign=from_bucket("lists/{date:%Y%m%d}.csv"),
    )
    assert sweep(services, "11-25 01:30") == 0
    [run] = runs(services, tenant_id)
    assert (run.status, run.next_try_at) == ("due", at("11-25 01:31"))
    assert run.reason == {
        "code": "file_missing",
        "message": "the bucket has no file lists/20201125.csv; put it there with"
        " `presswork file put LOCAL lists/20201125.csv`",
    }
    execute(services.engine, "UPDATE schedule_runs SET next_try_at = :time", time=at(last_try))
    before = at(last_try).replace(second=0)
    assert starting.start_due(services, before) == 0
    [run] = runs(services, tenant_id)
    assert (run.status, run.next_try_at) == ("failed", None)
    assert of_run(run, "message").endswith("; given up")
    assert value(services.engine, "SELECT count(*) FROM campaigns") == 0


def test_recipients_that_come_later(services: Services, tenant_id: UUID) -> None:
    """The run starts at the next look after its file is there, with all rows of it."""
    add(services, tenant_id, "11-24 12:00", campaign=from_bucket("lists/{date}.csv"))
    assert sweep(services, "11-25 01:30") == 0
    upload(services, tenant_id, "lists/2020-11-25.csv")
    assert start(services, "11-25 01:30:30") == 0
    assert start(services, "11-25 01:31") == 1
    assert all_told(services, tenant_id) == [("11-25 01:30", "started")]
    found = query(services.engine, "SELECT key, line, data FROM recipients ORDER BY line")
    assert [tuple(row) for row in found] == [
        ("1", 2, {"id": "1", "product": "mug"}),
        ("2", 3, {"id": "2", "product": "cup"}),
    ]


def test_the_date_is_the_local_one(services: Services, tenant_id: UUID) -> None:
    """The day in the key is that of the schedule's clock, however late the run starts."""
    add(
        services,
        tenant_id,
        "11-24 12:00",
        timezone="America/New_York",
        cron="30 22 * * *",
        campaign=from_bucket("{date}.csv"),
    )
    upload(services, tenant_id, "2020-11-24.csv")
    assert fire(services, "11-25 03:30") == 1
    assert start(services, "11-25 12:00") == 1


def test_recipients_that_cannot_be_used(services: Services, tenant_id: UUID) -> None:
    """Bad content fails the run at once with every problem's place, and nothing is created."""
    add(services, tenant_id, "11-24 12:00", campaign=from_bucket("list.csv"))
    upload(services, tenant_id, "list.csv", b"id,colour\n1,blue\n")
    before = rows(services.engine)
    assert sweep(services, "11-25 01:30") == 0
    [run] = runs(services, tenant_id)
    assert (run.status, of_run(run, "code")) == ("failed", "bad_input")
    assert of_run(run, "problems") == [
        {
            "message": "column 'product' is missing in list.csv; its columns: id, colour",
            "field": "creatives[0].prompt",
        }
    ]
    upload(services, tenant_id, "list.csv", b"id,product\n1,mug\n\n1,cup\n")
    assert sweep(services, "11-26 01:30") == 0
    [problem] = of_run(runs(services, tenant_id)[1], "problems")
    assert (problem["file"], problem["line"], problem["field"]) == ("list.csv", 4, "id")
    assert rows(services.engine) == {**before, "schedule_runs": 2}


def test_the_bucket_is_away(services: Services, tenant_id: UUID) -> None:
    """A bucket that does not answer is asked again, and holds up no other schedule."""
    add(services, tenant_id, "11-24 12:00", name="bucket", campaign=from_bucket("list.csv"))
    add(services, tenant_id, "11-24 12:00", cron="31 1 * * *")
    upload(services, tenant_id, "list.csv")
    port = ports.choose(["s3"], {})["s3"]
    away = ObjectStore(f"http://127.0.0.1:{port}", "b", "key", "secret")
    assert sweep(replace(services, objects=away), "11-25 01:31") == 1
    assert all_told(services, tenant_id, "bucket") == [("11-25 01:30", "due store_unreachable")]
    assert start(services, "11-25 01:32") == 1
    assert all_told(services, tenant_id, "bucket") == [("11-25 01:30", "started")]


def test_a_run_that_cannot_be_read(services: Services, tenant_id: UUID) -> None:
    """What fails in a way that nobody has thought of holds up no other run, and is tried again."""
    add(services, tenant_id, "11-24 12:00", name="broken", cron="0 1 * * *")
    add(services, tenant_id, "11-24 12:00")
    fire(services, "11-25 01:30")
    execute(services.engine, "UPDATE schedules SET timezone = 'No/Where' WHERE name = 'broken'")
    assert start(services, "11-25 01:30") == 1
    assert all_told(services, tenant_id, "broken") == [("11-25 01:00", "due unexpected")]
    execute(services.engine, "UPDATE schedules SET timezone = 'UTC' WHERE name = 'broken'")
    assert start(services, "11-25 01:31") == 1


def test_another_tenants_file_is_not_there(services: Services, tenant_id: UUID) -> None:
    """A key names a file of the schedule's own tenant, whatever others have under the same key."""
    with services.engine.begin() as connection:
        stranger = tenants.ensure(connection, "stranger")
    upload(services, stranger, "list.csv")
    add(services, tenant_id, "11-24 12:00", campaign=from_bucket("list.csv"))
    assert sweep(services, "11-25 01:30") == 0
    assert all_told(services, tenant_id) == [("11-25 01:30", "due file_missing")]
    add(services, stranger, "11-24 12:00", campaign=from_bucket("list.csv"))
    assert sweep(services, "11-25 01:30") == 1
    assert value(services.engine, "SELECT tenant_id FROM campaigns") == stranger


def test_the_model_is_gone(services: Services, tenant_id: UUID) -> None:
    """What has become impossible since the schedule was added fails the run, and says so."""
    add(services, tenant_id, "11-24 12:00")
    execute(
        services.engine,
        "UPDATE schedules SET campaign = jsonb_set(campaign, '{model}', '\"gone\"')",
    )
    assert sweep(services, "11-25 01:30") == 0
    [run] = runs(services, tenant_id)
    assert of_run(run, "message").startswith("model: unknown model 'gone'")


def test_a_finished_night_leaves_good_books(services: Services, tenant_id: UUID) -> None:
    """From fire to finish, counters and artifacts agree."""
    add(services, tenant_id, "11-24 12:00", campaign=campaign([{"id": 1, "product": "a"}]))
    sweep(services, "11-25 01:30")
    finish_campaign(services)
    check_books(services.engine)
