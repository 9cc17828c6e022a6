"""How fast trainings were is measured while they go on, and tells how long others will take."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from sqlalchemy import Engine

from jobs.trainings import estimates
from jobs.trainings.parts import Part
from storage import database
from workers.training import meter
from workers.training.meter import Meter

FIRST = Part("autoencoder", 10, 4, 4.0, "4 a step", "sort a", "digest a")
SECOND = Part("denoiser", 1000, 2, 8.0, "2 a step", "sort d", "digest d")


def test_each_part_has_its_speed(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step of a part does not count, and what was measured last is what is known."""
    clock = SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(meter, "time", clock)

    def estimate(*parts: Part) -> estimates.Estimate:
        with engine.begin() as connection:
            return estimates.estimate(connection, parts)

    with Meter(engine, "cpu x2", [FIRST, SECOND]) as measuring:
        for step in range(1, 21):
            slow = 100 if step in (1, 11) else 0
            clock.now += slow + (0.5 if step <= 10 else 2)
            measuring.stepped(step)
        assert estimate(FIRST).seconds == 5
        assert estimate(FIRST, SECOND).seconds is None
        clock.now += 2 * meter.KEEP_EVERY_S  # an evaluation belongs to the steps
        measuring.stepped(21)
        assert estimate(FIRST, SECOND).seconds == 5 + 1000 * (2 * 9 + 120) / 10
    found = estimate(FIRST, SECOND)
    assert (found.is_measured, found.device, found.steps) == (True, "cpu x2", 1010)
    assert found.pictures_seen == 10 * 4 + 1000 * 2

    with Meter(engine, "cpu x2", [FIRST]) as measuring:
        for step in range(7):
            clock.now += 1
            measuring.stepped(step)
    twice = replace(FIRST, work=8.0, digest="another")
    assert (estimate(FIRST).seconds, estimate(twice).seconds) == (10, 20)
    assert str(estimate(twice)) == (
        "10 steps, about 20 s (a guess, scaled from autoencoder: 4 a step, on cpu x2)"
    )


def test_few_steps_say_nothing(engine: Engine) -> None:
    """What has hardly begun is not taken for what it will be."""
    with Meter(engine, "cpu x2", [FIRST]) as measuring:
        for step in range(1, 6):
            measuring.stepped(step)
    with engine.begin() as connection:
        assert estimates.estimate(connection, [FIRST]).seconds is None


def test_a_database_that_is_away(caplog: pytest.LogCaptureFixture) -> None:
    """The training goes on, and only the measurement is lost."""
    away = database.connect("postgresql+psycopg://x@127.0.0.1:1/x", application="presswork tests")
    with Meter(away, "cpu x2", [FIRST]) as measuring:
        for step in range(1, 8):
            measuring.stepped(step)
    assert "could not keep how fast a training is" in caplog.text
