"""The sweeper's services as they run: each at its time, or as soon as there is something to do."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import pytest
from sqlalchemy import Engine

from jobs.maintenance import fanout, sweeper
from jobs.services import Services
from jobs.settings import Settings
from storage.ledger import submit
from tests.integration.ledger_cases import campaign_jobs, new_campaign, recipient_rows, rows, value
from tests.waiting import until

LISTENERS = """
    SELECT pid FROM pg_stat_activity
    WHERE application_name = 'presswork sweeper' AND query LIKE 'LISTEN%'
"""


@contextmanager
def running(settings: Settings, sweep_s: float) -> Iterator[None]:
    """A sweeper that sleeps for so long between two passes."""
    stop = threading.Event()
    patient = settings.model_copy(update={"sweep_s": sweep_s})
    thread = threading.Thread(target=sweeper.run, args=(patient, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


def listener(engine: Engine) -> int | None:
    """The server process of the connection that hears of new campaigns."""
    found = rows(engine, LISTENERS)
    return found[0].pid if found else None


def test_a_campaign_does_not_wait_for_the_next_pass(
    engine: Engine, settings: Settings, tenant_id: UUID
) -> None:
    """Jobs are made as soon as a campaign is submitted, however long the sweeper would sleep."""
    with running(settings, sweep_s=600):
        until(lambda: listener(engine))
        campaign_id = submit.submit_campaign(engine, new_campaign(tenant_id), recipient_rows(3))
        until(lambda: campaign_jobs(engine, campaign_id), timeout_s=20)
    until(lambda: listener(engine) is None)  # the server's process ends after the connection


def test_a_sweeper_that_hears_nothing_still_looks(
    engine: Engine, settings: Settings, tenant_id: UUID
) -> None:
    """Without the connection that it listens on, campaigns wait for the next pass, not for ever."""
    with running(settings, sweep_s=0.2):
        deaf = until(lambda: listener(engine))
        assert value(engine, "SELECT pg_terminate_backend(:pid, 5000)", pid=deaf)
        campaign_id = submit.submit_campaign(engine, new_campaign(tenant_id), recipient_rows(3))
        until(lambda: campaign_jobs(engine, campaign_id), timeout_s=20)
        until(lambda: listener(engine) not in (None, deaf), what="it listens again")


@pytest.mark.parametrize("many", [5, 6])
def test_a_large_fan_out_tells_the_planner(
    services: Services, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    """Plans from when the table was small are not kept; after a small fan-out nothing is done."""
    monkeypatch.setattr(fanout, "MANY", many)
    engine = services.engine
    known = "SELECT reltuples FROM pg_class WHERE oid = 'jobs'::regclass"
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("VACUUM ANALYZE jobs")
    submit.submit_campaign(engine, new_campaign(tenant_id), recipient_rows(5))
    fanout.fan_out_campaigns(engine, services.wake_ups)
    assert value(engine, known) == (5 if many == 5 else 0)
