"""What a worker says about itself."""

from storage.workers import State
from tests.unit.test_processes import Clock
from workers.report import Report


def test_a_new_report() -> None:
    """Nothing has been made or measured."""
    assert Report(Clock()).state() == State(outputs_per_s=0)


def test_what_is_noted() -> None:
    """The state is what was said last; counters add up."""
    report = Report(Clock())
    report.turn_to("a")
    report.note_models(["mugs", "cups"])
    report.note_memory(1, 2)
    report.count("compiles")
    report.count("compiles", 2)
    report.count("recompiles")
    counters = {"compiles": 3, "recompiles": 1}
    assert report.state() == State(1, 2, ("mugs", "cups"), "a", 0, counters)
    report.turn_to(None)
    assert report.state().batch_key is None


def test_outputs_per_second() -> None:
    """They are those of the last minute, or of the time since the start where that is less."""
    clock = Clock()
    report = Report(clock)
    report.note_made(5)
    assert report.state().outputs_per_s == 5
    clock.now = 10
    report.note_made(15)
    assert report.state().outputs_per_s == 2
    clock.now = 60
    assert report.state().outputs_per_s == 15 / 60
    clock.now = 70
    assert report.state().outputs_per_s == 0
