"""Run windows: what has not started by the end waits for the next one, or expires."""

from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

import pytest
from sqlalchemy import Engine, text

from jobs import requests as tenant_requests
from jobs.cli.progress import summary
from jobs.maintenance.deadlines import close_windows
from jobs.maintenance.waiting import promote_waiting
from jobs.schedules import requests
from jobs.schedules.windows import open_windows
from jobs.services import Services
from storage.ledger import cancel, claim, recover, submit, windows
from storage.ledger.submit import NewWindow
from storage.lifecycle import JobStatus
from tests.integration.ledger_cases import (
    broken,
    campaign_jobs,
    check_books,
    counts,
    execute,
    fan_out,
    finish_all,
    ids,
    job_row,
    new_campaign,
    recipient_rows,
    release_all,
    rows,
    statuses,
    take,
    take_some,
    together,
    value,
)
from tests.integration.schedule_cases import add, all_told, at, fire, start, sweep

HOUR = timedelta(hours=1)
QUEUED, RUNNING, WAITING = JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.WAITING
SUCCEEDED, EXPIRED = JobStatus.SUCCEEDED, JobStatus.EXPIRED


def in_window(
    engine: Engine, tenant_id: UUID, recipients: int, *, late: str = "wait", open_: bool = True
) -> UUID:
    """A campaign with its jobs in a window that is open, or will open in an hour."""
    now = datetime.now(UTC)
    following = now + 20 * HOUR if late == "wait" else None
    run_window = {"timezone": "UTC", "window": "01:00-06:00", "late": late, "blackout_dates": []}
    times = (now + HOUR, following) if open_ else (now, now + HOUR)
    campaign = new_campaign(tenant_id, window=NewWindow(*times, run_window))
    campaign_id = submit.submit_campaign(engine, campaign, recipient_rows(recipients))
    fan_out(engine)
    return campaign_id


def close(engine: Engine, campaign_id: UUID) -> None:
    """Let the campaign's window have ended."""
    execute(
        engine,
        "UPDATE campaigns SET closes_at = clock_timestamp() WHERE id = :id",
        id=campaign_id,
    )


def hold(engine: Engine, campaign_id: UUID) -> int:
    """Hold back all that there is; how many chunks it took."""
    chunks = 0
    last = windows.hold(engine, campaign_id)
    while last is not None:
        chunks += 1
        last = windows.hold(engine, campaign_id, last)
    return chunks


def test_within_its_window_a_job_starts(engine: Engine, tenant_id: UUID) -> None:
    """An open campaign's jobs are claimed as any others, and nothing is held back."""
    campaign_id = in_window(engine, tenant_id, 2)
    assert windows.to_hold(engine) == []
    assert hold(engine, campaign_id) == 0
    assert len(take_some(engine).jobs) == 2


@pytest.mark.parametrize("by_claim", [True, False])
def test_at_the_end_jobs_wait_for_the_next_window(
    engine: Engine, tenant_id: UUID, *, by_claim: bool
) -> None:
    """Whoever meets them first, they wait until it reopens, and no attempt is counted."""
    campaign_id = in_window(engine, tenant_id, 5)
    close(engine, campaign_id)
    if by_claim:
        assert take(engine) is None
        assert windows.to_hold(engine) == []
    else:
        assert windows.to_hold(engine) == [campaign_id]
        assert hold(engine, campaign_id) == 1
    reopens_at = value(engine, "SELECT reopens_at FROM campaigns")
    for job_id in campaign_jobs(engine, campaign_id):
        job = job_row(engine, job_id)
        assert (job.status, job.wait_reason, job.available_at) == ("waiting", "window", reopens_at)
        assert (job.attempts, job.claim_id, job.finished_at) == (0, None, None)
    assert counts(engine, campaign_id) == {WAITING: 5}
    assert recover.promote(engine) == 0
    check_books(engine)


@pytest.mark.parametrize("by_claim", [True, False])
def test_at_the_end_jobs_expire(engine: Engine, tenant_id: UUID, *, by_claim: bool) -> None:
    """Where late jobs expire, those that have not started do, those that wait for a retry too."""
    campaign_id = in_window(engine, tenant_id, 5, late="expire")
    finish_all(engine, take_some(engine, 1), lambda job_id: broken(job_id, retry=True))
    running = take_some(engine, 1)
    close(engine, campaign_id)
    if by_claim:
        assert take(engine) is None
        assert counts(engine, campaign_id) == {WAITING: 1, RUNNING: 1, EXPIRED: 3}
    assert windows.to_hold(engine) == [campaign_id]
    assert hold(engine, campaign_id) == 1
    assert counts(engine, campaign_id) == {RUNNING: 1, EXPIRED: 4}
    assert windows.to_hold(engine) == []
    finish_all(engine, running)
    assert counts(engine, campaign_id) == {SUCCEEDED: 1, EXPIRED: 4}
    check_books(engine)


def test_what_runs_at_the_end_is_finished(engine: Engine, tenant_id: UUID) -> None:
    """A running job keeps its claim; one that it gives back waits for the next window."""
    campaign_id = in_window(engine, tenant_id, 2)
    one, other = take_some(engine, 1), take_some(engine, 1)
    close(engine, campaign_id)
    assert hold(engine, campaign_id) == 0
    assert claim.renew(engine, one.claim_id).held
    assert set(finish_all(engine, one).values()) == {SUCCEEDED}
    release_all(engine, other)
    assert hold(engine, campaign_id) == 1
    assert counts(engine, campaign_id) == {SUCCEEDED: 1, WAITING: 1}
    check_books(engine)


def test_jobs_are_held_back_in_chunks(
    engine: Engine, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each chunk goes on behind the one before it; what another holds is passed by."""
    monkeypatch.setattr(windows, "CHUNK", 2)
    campaign_id = in_window(engine, tenant_id, 7)
    first, *others = campaign_jobs(engine, campaign_id)
    close(engine, campaign_id)
    with engine.begin() as connection:
        connection.execute(text("SELECT FROM jobs WHERE id = :id FOR UPDATE"), {"id": first})
        assert windows.hold(engine, campaign_id) == others[1]
        assert windows.hold(engine, campaign_id, others[1]) == others[3]
    assert windows.hold(engine, campaign_id, others[3]) == others[5]
    assert windows.hold(engine, campaign_id, others[5]) is None
    assert statuses(engine, first) == [QUEUED]
    assert windows.to_hold(engine) == [campaign_id]
    assert hold(engine, campaign_id) == 1
    assert counts(engine, campaign_id) == {WAITING: 7}


def test_claims_and_sweepers_at_once(engine: Engine, tenant_id: UUID) -> None:
    """A window that ends under load: every job is held back or run once, and counted once."""
    for _ in range(5):
        campaign_id = in_window(engine, tenant_id, 60)
        close(engine, campaign_id)
        claims, holds = partial(take, engine, 7), partial(hold, engine, campaign_id)
        together(holds, claims, holds, claims)
        hold(engine, campaign_id)
        assert counts(engine, campaign_id) == {WAITING: 60}
        check_books(engine)


def test_a_run_before_its_window(services: Services, tenant_id: UUID) -> None:
    """Its jobs are made at once and wait; in the window they start; at its end they wait again."""
    add(
        services,
        tenant_id,
        "11-23 12:00",
        cron="0 22 * * *",
        window="23:00-02:00",
        blackout_dates=["2020-11-24"],
    )
    engine = services.engine
    assert sweep(services, "11-23 22:00") == 1
    [stored] = rows(engine, "SELECT * FROM campaigns")
    assert (stored.closes_at, stored.reopens_at) == (at("11-23 22:00"), at("11-23 23:00"))
    fan_out(engine)
    [job] = rows(engine, "SELECT * FROM jobs")
    assert (job.status, job.wait_reason, job.available_at) == (
        "waiting",
        "window",
        at("11-23 23:00"),
    )
    assert counts(engine, stored.id) == {WAITING: 1}
    open_windows(engine, at("11-23 22:59"))
    assert value(engine, "SELECT closes_at FROM campaigns") == at("11-23 22:00")
    open_windows(engine, at("11-23 23:00"))
    [stored] = rows(engine, "SELECT * FROM campaigns")
    # The 24th is a blackout date, so the window that follows is that of the 25th.
    assert (stored.closes_at, stored.reopens_at) == (at("11-24 02:00"), at("11-25 23:00"))
    open_windows(engine, at("11-26 00:30"))
    [stored] = rows(engine, "SELECT * FROM campaigns")
    assert (stored.closes_at, stored.reopens_at) == (at("11-26 02:00"), at("11-26 23:00"))


def test_a_window_that_nobody_saw(services: Services, tenant_id: UUID) -> None:
    """A window that passed while no sweeper ran: late jobs wait on, or expire, and none starts."""
    engine = services.engine
    for late in ("wait", "expire"):
        add(
            services,
            tenant_id,
            "11-23 12:00",
            name=late,
            cron="0 22 * * *",
            window="23:00-02:00",
            late=late,
        )
    assert sweep(services, "11-23 22:00") == 2
    fan_out(engine)
    execute(engine, "UPDATE jobs SET available_at = '2020-01-01'")
    open_windows(engine, at("11-24 12:00"))
    assert recover.promote(engine) == 2
    assert take(engine) is None
    close_windows(engine)
    found = rows(
        engine,
        "SELECT run_window->>'late' AS late, closes_at, reopens_at, jobs.status FROM campaigns"
        " JOIN jobs ON jobs.campaign_id = campaigns.id ORDER BY 1",
    )
    assert [tuple(row) for row in found] == [
        ("expire", None, None, "expired"),
        ("wait", at("11-24 12:00"), at("11-24 23:00"), "waiting"),
    ]
    check_books(engine)


def test_within_the_window(services: Services, tenant_id: UUID) -> None:
    """A run that fires in its window has until its end; the next window is that of the next day."""
    add(services, tenant_id, "11-23 12:00", window="01:00-06:00")
    assert sweep(services, "11-24 01:30") == 1
    [stored] = rows(services.engine, "SELECT * FROM campaigns")
    assert (stored.closes_at, stored.reopens_at) == (at("11-24 06:00"), at("11-25 01:00"))
    assert summary(tenant_requests.campaign(services, tenant_id, stored.id)).endswith(
        "\n  run window: closes 2020-11-24T06:00:00+00:00, opens 2020-11-25T01:00:00+00:00"
    )
    assert stored.run_window == {
        "timezone": "UTC",
        "window": "01:00-06:00",
        "late": "wait",
        "blackout_dates": [],
    }


def test_a_queued_run_misses_its_window(services: Services, tenant_id: UUID) -> None:
    """A run that waited for another until its window was over is skipped, if late work expires."""
    add(
        services, tenant_id, "11-23 12:00", cron="30 1,2 * * *", window="01:00-06:00", late="expire"
    )
    assert sweep(services, "11-24 01:30") == 1
    assert fire(services, "11-24 02:30") == 1
    assert start(services, "11-24 02:30") == 0
    assert start(services, "11-24 06:00") == 0
    assert all_told(services, tenant_id)[1] == ("11-24 02:30", "skipped window_ended")


def test_the_windows_outlive_their_schedule(services: Services, tenant_id: UUID) -> None:
    """A campaign knows its windows by itself."""
    add(services, tenant_id, "11-23 12:00", cron="0 22 * * *", window="23:00-02:00")
    assert sweep(services, "11-23 22:00") == 1
    requests.remove(services, tenant_id, "nightly")
    open_windows(services.engine, at("11-23 23:00"))
    assert value(services.engine, "SELECT closes_at FROM campaigns") == at("11-24 02:00")


def test_the_sweeper_lets_a_window_begin(services: Services, tenant_id: UUID) -> None:
    """One pass opens the campaign and queues all of its jobs, however many; then they start."""
    engine = services.engine
    many = recover.PROMOTED_AT_ONCE + 5
    campaign_id = in_window(engine, tenant_id, many, open_=False)
    assert counts(engine, campaign_id) == {WAITING: many}
    promote_waiting(engine, services.wake_ups)
    assert counts(engine, campaign_id) == {WAITING: many}
    now = datetime.now(UTC)
    hours = f"{now - HOUR:%H:%M}-{now + 2 * HOUR:%H:%M}"
    execute(
        engine,
        "UPDATE campaigns SET reopens_at = clock_timestamp() - interval '1 s',"
        " run_window = jsonb_set(run_window, '{window}', to_jsonb(CAST(:hours AS text)))",
        hours=hours,
    )
    execute(engine, "UPDATE jobs SET available_at = clock_timestamp() - interval '1 s'")
    promote_waiting(engine, services.wake_ups)
    assert counts(engine, campaign_id) == {QUEUED: many}
    assert len(take_some(engine, 8).jobs) == 8
    assert services.wake_ups.waiting("default")


def test_a_window_that_is_not_set_yet(engine: Engine, tenant_id: UUID) -> None:
    """A job that is queued before anyone has opened its campaign is held back a few seconds."""
    campaign_id = in_window(engine, tenant_id, 1)
    execute(
        engine,
        "UPDATE campaigns SET closes_at = clock_timestamp() - interval '1 h',"
        " reopens_at = clock_timestamp() - interval '1 s'",
    )
    assert take(engine) is None
    wait_s = value(engine, "SELECT extract(epoch FROM available_at - clock_timestamp()) FROM jobs")
    assert 0 < wait_s <= claim.LOOK_AGAIN_S
    assert counts(engine, campaign_id) == {WAITING: 1}


def test_a_campaign_that_is_over_has_no_window(engine: Engine, tenant_id: UUID) -> None:
    """Once everything has ended, a retry by request runs when it is asked for."""
    campaign_id = in_window(engine, tenant_id, 1)
    batch = take_some(engine)
    close(engine, campaign_id)
    close_windows(engine)
    assert value(engine, "SELECT closes_at FROM campaigns") is not None
    finish_all(engine, batch, lambda job_id: broken(job_id, retry=False))
    close_windows(engine)
    [stored] = rows(engine, "SELECT * FROM campaigns")
    assert (stored.closes_at, stored.reopens_at) == (None, None)
    [job_id] = ids(batch)
    assert cancel.retry_job(engine, tenant_id, job_id) == "default"
    assert ids(take_some(engine)) == [job_id]


def test_cancelling_comes_before_waiting(engine: Engine, tenant_id: UUID) -> None:
    """The jobs of a closed campaign that is cancelled are cancelled, the waiting ones too."""
    campaign_id = in_window(engine, tenant_id, 4)
    close(engine, campaign_id)
    assert windows.hold(engine, campaign_id)
    assert cancel.cancel_campaign(engine, tenant_id, campaign_id)
    while cancel.cancel_flagged(engine):
        pass
    assert counts(engine, campaign_id) == {JobStatus.CANCELLED: 4}
    close_windows(engine)
    assert value(engine, "SELECT closes_at FROM campaigns") is None


def test_others_are_not_held_up(engine: Engine, tenant_id: UUID) -> None:
    """A claim goes on behind a closed campaign's jobs to those of another one with the same key."""
    closed = in_window(engine, tenant_id, 20)
    other = in_window(engine, tenant_id, 3)
    close(engine, closed)
    batch = take_some(engine, 8)
    assert set(ids(batch)) == set(campaign_jobs(engine, other))
