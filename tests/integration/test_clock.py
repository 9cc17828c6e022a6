"""A worker's wall clock that is off: it is named, S3's refusal is understood, leases go on."""

import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from botocore import auth, compat
from sqlalchemy import Engine

from jobs import doctor
from jobs.services import Services
from jobs.settings import Settings
from storage import clock, workers
from storage.ledger import recover
from storage.objects import ClockSkewError
from tests.integration.batches import NAME, Generating, jobs, submit
from tests.integration.ledger_cases import expire, rows, take_some, value
from tests.waiting import until
from workers.families.diffusion import generate
from workers.pulse import Pulse
from workers.runner import Runner

# diffusers 0.42 hands torch tensors to numpy 2 in its schedulers.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

TWO_HOURS_S = 7200.0


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set this machine's clock so many seconds ahead, for all that reads it by Python."""
    real = time.time

    def set_ahead(ahead_s: float) -> None:
        def signing_time(*arguments: Any, **options: Any) -> datetime:
            now: datetime = compat.get_current_datetime(*arguments, **options)
            return now + timedelta(seconds=ahead_s)

        monkeypatch.setattr(time, "time", lambda: real() + ahead_s)
        monkeypatch.setattr(auth, "get_current_datetime", signing_time)

    return set_ahead


@pytest.mark.parametrize("ahead_s", [TWO_HOURS_S, -TWO_HOURS_S, 0.0])
def test_measuring(engine: Engine, set_clock: Callable[[float], None], ahead_s: float) -> None:
    """What is measured is what this machine's clock is ahead of the database's."""
    set_clock(ahead_s)
    with engine.begin() as connection:
        assert clock.ahead_s(connection) == pytest.approx(ahead_s, abs=1)


def test_a_slow_answer_is_no_wrong_clock(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the database took a minute to answer, nobody can say that the clock is off."""
    now = time.time()
    times = iter([now - 30, now + 30])
    with engine.begin() as connection, monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: next(times))
        assert clock.ahead_s(connection) == 0


def test_the_heartbeat_names_it_once(
    settings: Settings,
    engine: Engine,
    set_clock: Callable[[float], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log says so at each change, SQL has it, and doctor names the worker."""
    caplog.set_level(logging.INFO, logger="workers.pulse")
    pulse = Pulse(engine, name=NAME, pool="default", device="cpu-0", every_s=0)

    def skew_s() -> float | None:
        found = rows(engine, "SELECT clock_skew_s FROM workers WHERE name = :name", name=NAME)
        return found[0].clock_skew_s if found else None

    def finding() -> doctor.Finding:
        return next(one for one in doctor.examine(settings) if one.name == "worker clocks")

    set_clock(TWO_HOURS_S)
    pulse.start()
    try:
        until(skew_s, what="a heartbeat")
        first = value(engine, "SELECT seen_at FROM workers")
        until(lambda: value(engine, "SELECT seen_at FROM workers") > first, what="another")
        assert not finding().ok
        assert f"{NAME} +7200" in finding().says
        set_clock(0)
        until(lambda: skew_s() == 0, what="a heartbeat by a clock that is right")
        assert finding().ok
    finally:
        pulse.stop()
    said = [record.getMessage() for record in caplog.records if record.name == "workers.pulse"]
    assert len(said) == 2
    assert "clock is +7200" in said[0]
    assert "right again" in said[1]


@pytest.mark.parametrize("ahead_s", [TWO_HOURS_S, -TWO_HOURS_S])
def test_the_store_refuses_it(
    services: Services, set_clock: Callable[[float], None], ahead_s: float
) -> None:
    """Its refusal is an error of its own, that says what to do."""
    set_clock(ahead_s)
    key = f"artifacts/{uuid4()}/x.png"
    with pytest.raises(ClockSkewError, match="set its clock"):
        services.objects.put(key, b"x", "image/png")
    with pytest.raises(ClockSkewError, match="set its clock"):
        services.objects.get(key)
    set_clock(0)
    services.objects.put(key, b"x", "image/png")


def test_its_work_is_released_at_once(
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    set_clock: Callable[[float], None],
    make_runner: Callable[..., Runner],
) -> None:
    """No attempt is lost, nobody waits for a clock to set itself, and the worker pauses."""
    submit(services, tenant_id, {}, {})
    runner = make_runner()
    set_clock(-TWO_HOURS_S)
    began = time.monotonic()
    assert runner.run_next()
    assert time.monotonic() - began < 30, "patience with a store that is away is a minute"
    assert set(jobs(engine).values()) == {("queued", 0, "clock_skew")}
    assert runner.pause_s == 1
    set_clock(0)
    assert runner.run_next()
    assert set(jobs(engine).values()) == {("succeeded", 1, None)}


@pytest.mark.parametrize("ahead_s", [TWO_HOURS_S, -TWO_HOURS_S])
def test_leases_do_not_depend_on_it(
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    set_clock: Callable[[float], None],
    make_runner: Callable[..., Runner],
    *,
    monkeypatch: pytest.MonkeyPatch,
    ahead_s: float,
) -> None:
    """A batch is held while it is made, for no longer than a lease, and nothing is taken early."""
    set_clock(ahead_s)
    left = """
        SELECT extract(epoch FROM lease_until - clock_timestamp()) AS seconds, lease_until, lease_s
        FROM claims
    """

    def look(_: list[str]) -> None:
        [first] = rows(engine, left)
        assert 0 < first.seconds <= first.lease_s

        def renewed() -> bool:
            [now] = rows(engine, left)
            assert 0 < now.seconds <= now.lease_s
            return bool(now.lease_until > first.lease_until)

        until(renewed, what="the lease's renewal")
        assert recover.recover_claim(engine) is None

    monkeypatch.setattr(generate, "generate", Generating(look))
    submit(services, tenant_id, {})
    assert make_runner().run_next()
    # The bucket refuses the picture; whatever `look` found wrong would be another error.
    assert set(jobs(engine).values()) == {("queued", 0, "clock_skew")}


def test_a_lease_ends_by_the_database_alone(
    services: Services, tenant_id: UUID, engine: Engine, set_clock: Callable[[float], None]
) -> None:
    """A sweeper two hours ahead takes nothing early, and one two hours behind nothing late."""
    submit(services, tenant_id, {})
    set_clock(TWO_HOURS_S)
    batch = take_some(engine)
    assert recover.recover_claim(engine) is None
    set_clock(-TWO_HOURS_S)
    expire(engine, batch.claim_id)
    recovered = recover.recover_claim(engine)
    assert recovered
    assert recovered.claim_id == batch.claim_id


def test_an_old_worker_says_nothing_about_its_clock(engine: Engine) -> None:
    """One that was started before the column existed is not named."""
    workers.seen(engine, name="old@here", pool="default", device="cpu-0")
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE workers SET clock_skew_s = NULL")
    assert workers.clock_skews(engine, within_s=60) == {}
