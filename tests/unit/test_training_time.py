"""How long a training may be at work: in sum over its attempts, and nothing of it is lost."""

from types import SimpleNamespace

import pytest

from tests.training_parts import Heard, Kept, Sums, assert_same, loop_of
from tests.training_parts import sums_request as request
from workers.training import loop
from workers.training.trainer import Numbers, TimeUpError


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The loop's clock, which goes by as `Slow` says."""
    clock = SimpleNamespace(now=1000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(loop, "time", clock)
    return clock


class Slow(Sums):
    """Each step takes two seconds."""

    clock: SimpleNamespace

    def step(self, step: int) -> Numbers:
        """Learn, slowly."""
        self.clock.now += 2
        return super().step(step)


def test_the_time_is_up(clock: SimpleNamespace) -> None:
    """A checkpoint is kept wherever that is; with more time the end is the same, bit by bit."""
    plan, kept = request(), Kept()
    Slow.clock = clock
    whole = Slow(plan)
    loop_of(whole, plan).run()
    with pytest.raises(TimeUpError) as caught:
        loop_of(Slow(plan), plan, kept, max_seconds=7).run()
    assert (caught.value.step, [one.step for one in kept.all]) == (4, [3, 4])
    assert kept.all[-1].state["seconds"] == 8

    again, heard = Slow(plan), Heard()
    with pytest.raises(TimeUpError) as caught:
        loop_of(again, plan, kept, max_seconds=8, saying=heard).run()
    assert (caught.value.step, again.seen, len(kept.all)) == (4, {}, 2)

    rest = Slow(plan)
    with pytest.raises(TimeUpError) as caught:
        loop_of(rest, plan, kept, max_seconds=12).run()
    assert (caught.value.step, list(rest.seen)) == (6, [4, 5])
    last = Slow(plan)
    assert loop_of(last, plan, kept, max_seconds=19).run()
    assert list(last.seen) == [6, 7, 8]
    assert_same(whole, last)


def test_what_others_took_does_not_count(clock: SimpleNamespace) -> None:
    """A training that goes on from another's end has all its time before it."""
    plan, kept = request(), Kept()
    Slow.clock = clock
    loop_of(Slow(plan), plan, kept).run()
    more = request(steps=12)
    rest = Slow(more)
    assert loop_of(rest, more, start_from=kept.latest, max_seconds=7).run()
    assert list(rest.seen) == [9, 10, 11]


def test_who_counts_steps(clock: SimpleNamespace) -> None:
    """Whoever asks is told after each step how many have been made."""
    plan, told = request(), list[int]()
    Slow.clock = clock
    loop_of(Slow(plan), plan, stepped=told.append).run()
    assert told == list(range(1, 10))
