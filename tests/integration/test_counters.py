"""Counters that have drifted are mended, once, also while jobs change."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, Engine

from jobs.maintenance.reconciliation import reconcile_campaigns
from storage import counters
from storage.ledger import cancel, finish, submit
from storage.ledger.finish import Outcome
from storage.lifecycle import JobStatus
from tests.integration.ledger_cases import (
    LIMIT_S,
    at_statement,
    broken,
    connection_of,
    counts,
    execute,
    finish_all,
    ids,
    made,
    new_campaign,
    recipient_rows,
    release_all,
    rows,
    submit_campaign,
    take,
    take_some,
    together,
    value,
    wait_until_blocked,
)

QUEUED, RUNNING, SUCCEEDED = JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.SUCCEEDED

COUNTERS = "SELECT * FROM campaign_counters ORDER BY campaign_id, status, slot"


def damage(engine: Engine, campaign_id: UUID, status: JobStatus = QUEUED, jobs: int = 5) -> None:
    """Let the counter of a status be wrong by ``jobs``."""
    with engine.begin() as connection:
        counters.add(connection, uuid4(), {(campaign_id, status): jobs})


def let_be_due(engine: Engine) -> None:
    """Let the turn of every campaign that will have one have come."""
    execute(
        engine,
        "UPDATE campaigns SET reconcile_at = clock_timestamp() WHERE reconcile_at IS NOT NULL",
    )


def test_without_damage_nothing_changes(engine: Engine, tenant_id: UUID) -> None:
    """Counters that are right are not touched."""
    campaign_id = submit_campaign(engine, tenant_id, 5)
    finish_all(engine, take_some(engine, 2))
    take_some(engine, 1)
    before = rows(engine, COUNTERS)
    assert counters.reconcile(engine, campaign_id) == {}
    assert rows(engine, COUNTERS) == before


def test_damage_is_mended(engine: Engine, tenant_id: UUID) -> None:
    """Too much, too little, and rows that are missing altogether; no other campaign is touched."""
    campaign_id = submit_campaign(engine, tenant_id, 5)
    other_id = submit_campaign(engine, tenant_id, 3)
    finish_all(engine, take_some(engine, 2))
    take_some(engine, 1)
    execute(engine, "DELETE FROM campaign_counters WHERE status = 'running'")
    damage(engine, campaign_id, QUEUED, 7)
    damage(engine, campaign_id, JobStatus.EXPIRED, 2)
    damage(engine, campaign_id, SUCCEEDED, -1)
    damage(engine, other_id, QUEUED, 1)
    drift = counters.reconcile(engine, campaign_id)
    assert drift == {QUEUED: -7, RUNNING: 1, SUCCEEDED: 1, JobStatus.EXPIRED: -2}
    assert counts(engine, campaign_id) == {QUEUED: 2, RUNNING: 1, SUCCEEDED: 2}
    assert counters.reconcile(engine, other_id) == {QUEUED: -1}


def test_a_finish_at_the_same_moment(engine: Engine, tenant_id: UUID) -> None:
    """A finish that is committed after the comparison, and before its result, counts once."""
    campaign_id = submit_campaign(engine, tenant_id, 5)
    batch = take_some(engine, 3)
    damage(engine, campaign_id, RUNNING, 10)

    def finish_now(_: Connection) -> None:
        finish_all(engine, batch)

    with at_statement(engine, "INSERT INTO campaign_counters", finish_now):
        counters.reconcile(engine, campaign_id)
    assert counts(engine, campaign_id) == {QUEUED: 2, SUCCEEDED: 3}


def test_two_at_once_mend_once(engine: Engine, tenant_id: UUID) -> None:
    """The second one waits for the first, and then finds nothing to do."""
    campaign_id = submit_campaign(engine, tenant_id, 5)
    damage(engine, campaign_id)
    with ThreadPoolExecutor(1) as thread:
        second = []

        def start_second(connection: Connection) -> None:
            second.append(thread.submit(counters.reconcile, engine, campaign_id))
            wait_until_blocked(engine, connection_of(connection).info.backend_pid)

        with at_statement(engine, "INSERT INTO campaign_counters", start_second):
            assert counters.reconcile(engine, campaign_id) == {QUEUED: -5}
        assert second[0].result(LIMIT_S) == {}
    assert counts(engine, campaign_id) == {QUEUED: 5}


def work(engine: Engine, seed: int) -> None:
    """Claim and end jobs in every way until the queue is empty."""
    ends: list[Callable[[UUID], Outcome]] = [
        made,
        partial(broken, retry=False),
        made,
        partial(broken, retry=True),
    ]
    number = seed
    while batch := take(engine, 3):
        number += 1
        if number % 7 == 0:
            release_all(engine, batch)
        else:
            outcomes = [ends[(number + place) % 4](job) for place, job in enumerate(ids(batch))]
            finish.finish(engine, batch.claim_id, outcomes)


def reconciled_during(engine: Engine, campaign_id: UUID, act: Callable[[], object]) -> list[int]:
    """Reconcile again and again in two threads while ``act`` runs; the sizes of what was added."""
    over = threading.Event()

    def go_on() -> list[int]:
        found = []
        while not over.is_set():
            found.append(sum(map(abs, counters.reconcile(engine, campaign_id).values())))
        return found

    with ThreadPoolExecutor(2) as threads:
        reconcilers = [threads.submit(go_on) for _ in range(2)]
        try:
            act()
        finally:
            over.set()
        return [size for done in reconcilers for size in done.result(LIMIT_S)]


def test_under_load_without_damage(engine: Engine, tenant_id: UUID) -> None:
    """While four workers claim and finish, reconcilers find no drift where there is none."""
    campaign_id = submit_campaign(engine, tenant_id, 150)
    found = reconciled_during(
        engine, campaign_id, lambda: together(*[partial(work, engine, seed) for seed in range(4)])
    )
    assert set(found) == {0}
    assert len(found) > 10
    counts(engine, campaign_id)


def test_under_load_with_damage(engine: Engine, tenant_id: UUID) -> None:
    """Every damage is mended exactly once while four workers claim and finish."""
    campaign_id = submit_campaign(engine, tenant_id, 150)

    def break_now_and_then() -> None:
        for status in JobStatus:
            damage(engine, campaign_id, status, 3)

    def act() -> None:
        together(*[partial(work, engine, seed) for seed in range(4)], break_now_and_then)

    found = reconciled_during(engine, campaign_id, act)
    rest = sum(map(abs, counters.reconcile(engine, campaign_id).values()))
    assert sum(found) + rest == 3 * len(JobStatus)
    counts(engine, campaign_id)


def test_campaigns_have_turns(
    engine: Engine, tenant_id: UUID, caplog: pytest.LogCaptureFixture
) -> None:
    """An unfinished campaign is checked each hour, a finished one once more, then never again."""
    campaign_id = submit_campaign(engine, tenant_id, 2)
    damage(engine, campaign_id)
    reconcile_campaigns(engine)
    assert value(engine, "SELECT sum(jobs) FROM campaign_counters") == 7, "not its turn yet"

    let_be_due(engine)
    reconcile_campaigns(engine)
    assert counts(engine, campaign_id) == {QUEUED: 2}
    [record] = [item for item in caplog.records if item.levelno == logging.ERROR]
    assert f"campaign {campaign_id}" in record.message
    assert "queued -5" in record.message
    next_s = "SELECT extract(epoch FROM reconcile_at - clock_timestamp()) FROM campaigns"
    assert 3500 < value(engine, next_s) <= 3600

    finish_all(engine, take_some(engine))
    let_be_due(engine)
    reconcile_campaigns(engine)
    assert value(engine, "SELECT reconcile_at FROM campaigns") is None
    assert len(caplog.records) == 1


def test_drift_after_the_end_is_checked_once_more(engine: Engine, tenant_id: UUID) -> None:
    """A campaign that was wrong at its end has another turn."""
    campaign_id = submit_campaign(engine, tenant_id, 2)
    finish_all(engine, take_some(engine))
    damage(engine, campaign_id, SUCCEEDED)
    let_be_due(engine)
    reconcile_campaigns(engine)
    assert value(engine, "SELECT reconcile_at FROM campaigns")
    let_be_due(engine)
    reconcile_campaigns(engine)
    assert value(engine, "SELECT reconcile_at FROM campaigns") is None


def test_a_campaign_that_is_compiling_goes_on_having_turns(engine: Engine, tenant_id: UUID) -> None:
    """A campaign without jobs yet is not over."""
    submit.submit_campaign(engine, new_campaign(tenant_id), recipient_rows(1))
    let_be_due(engine)
    reconcile_campaigns(engine)
    assert value(engine, "SELECT reconcile_at FROM campaigns")


@pytest.mark.parametrize("part", ["presswork counters", None])
def test_a_retry_gives_a_campaign_its_turns_back(
    engine: Engine, tenant_id: UUID, part: str | None
) -> None:
    """Also when it comes in the middle of what would have been the last turn."""
    submit_campaign(engine, tenant_id, 1)
    batch = take_some(engine)
    finish_all(engine, batch, partial(broken, retry=False))
    let_be_due(engine)

    def retry(_: Connection) -> None:
        assert cancel.retry_job(engine, tenant_id, ids(batch)[0])

    if part:
        with at_statement(engine, part, retry):
            reconcile_campaigns(engine)
    else:
        reconcile_campaigns(engine)
        assert value(engine, "SELECT reconcile_at FROM campaigns") is None
        cancel.retry_job(engine, tenant_id, ids(batch)[0])
    assert value(engine, "SELECT reconcile_at FROM campaigns")


def test_sweepers_share_the_campaigns(engine: Engine, tenant_id: UUID) -> None:
    """Each campaign is taken by one of the sweepers that look at the same time."""
    campaigns = {submit_campaign(engine, tenant_id, 1) for _ in range(12)}
    let_be_due(engine)

    def sweep() -> list[UUID]:
        return [done.campaign_id for done in iter(lambda: counters.reconcile_next(engine), None)]

    taken = [campaign_id for found in together(*[sweep] * 4) for campaign_id in found]
    assert sorted(taken) == sorted(campaigns)
