"""The loop of trainings: a training that was stopped ends as one that was not."""

import importlib.util
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.training_parts import (
    SEED,
    Heard,
    Kept,
    Stop,
    Sums,
    assert_same,
    interrupted,
    loop_of,
)
from tests.training_parts import sums_request as request
from workers.family import StopRequestedError
from workers.training import draws, loop
from workers.training.learner import Rate
from workers.training.trainer import Numbers, StepFailedError, TrainingError


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_the_rate_is_that_of_the_step(schedule: Any) -> None:
    """It rises to its peak, and goes down as the schedule says, whatever was asked before."""
    rate = Rate(peak=1.0, schedule=schedule, warmup_steps=4, steps=14)
    rates = [rate.at(step) for step in range(14)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[9] == pytest.approx(1.0 if schedule == "constant" else 0.5)
    assert rates[13] < (1.1 if schedule == "constant" else 0.11)
    assert [rate.at(step) for step in reversed(range(14))] == rates[::-1]
    plan = request(steps=14, schedule=schedule, learning_rate=1.0, warmup_steps=4, ema=None)
    learner = Sums(plan).learners["sums"]
    assert [learner.apply(step)["learning_rate"] for step in (9, 2, 9)] == [
        rates[9],
        rates[2],
        rates[9],
    ]


def test_draws_are_those_of_the_step() -> None:
    """What is drawn depends on the seed and what it is for, and not on what was drawn before."""

    def drawn(*parts: object) -> tuple[float, float]:
        numbers = draws.begin(*parts)  # type: ignore[arg-type]
        return float(torch.randn(())), float(numbers.random())

    first = drawn(SEED, 3)
    torch.randn(100)
    np.random.default_rng().random(5)
    assert drawn(SEED, 3) == first
    others = [drawn(SEED, 4), drawn(SEED + 1, 3), drawn(SEED, "samples")]
    assert len({first, *others}) == 4
    assert len({value for pair in (first, *others) for value in pair}) == 8


@pytest.mark.parametrize("at", [4, 8])
def test_stopped_and_gone_on(at: int) -> None:
    """A training that was stopped ends bit by bit as one that was not."""
    plan = request()
    whole = Sums(plan)
    assert loop_of(whole, plan).run()
    parts = interrupted(lambda: Sums(plan), plan, at)
    assert_same(whole, parts)
    assert parts.state["sum"] == whole.state["sum"] > 0
    names = {key.split(".")[0] for key in whole.learners["sums"].tensors()}
    assert names == {"weights", "buffers", "optimizer", "ema"}


def test_what_happens_between_steps_changes_nothing() -> None:
    """Samples and evaluations draw, and the steps after them learn the same; samples compare."""
    plan = request()
    plain, watched = Sums(plan), Sums(plan)
    loop_of(plain, plan).run()
    heard = Heard()
    often = request(sample_every=2, evaluate_every=2)
    loop_of(watched, often, saying=heard).run()
    assert watched.state.pop("evaluated")  # for the card of what is made
    assert_same(plain, watched)
    assert [step for step, _ in heard.samples] == [2, 4, 6, 8, 9]
    assert len({sample.content for _, sample in heard.samples}) == 1
    assert [note["step"] for note in heard.of("evaluated")] == [2, 4, 6, 8, 9]
    assert [note["step"] for note in heard.of("checkpoint")] == [3, 6, 9]
    last = heard.of("progress")[-1]
    assert (last["step"], last["steps"], last["eta_s"]) == (9, 9, 0)
    assert last["loss"] > 0


@pytest.mark.parametrize("at", [3, 4, 7])
def test_patience_outlasts_a_stop(at: int) -> None:
    """It ends after so many evaluations without a better one, also of those before a stop."""
    plan = request(evaluate_every=1, patience=3, checkpoint_every=1)
    kept = Kept()
    parts = interrupted(lambda: Sums(plan), plan, at, kept)
    # 0.4 at step 5 was the best.
    assert parts.state["stopped_at"] == 8
    assert [checkpoint.step for checkpoint in kept.all] == [1, 2, 3, 4, 5, 6, 7, 8]
    again = Sums(plan)
    assert loop_of(again, plan, kept).run()
    assert again.seen == {}
    assert_same(parts, again)


@pytest.mark.parametrize("what", ["loss", "error"])
def test_numbers_that_are_not_finite(what: str) -> None:
    """A training whose loss, or whose evaluation, is NaN ends, and says what may help."""
    plan = request(evaluate_every=5)
    training = Sums(plan)
    if what == "loss":
        training.fails_at = 4
    else:
        training.errors = (float("nan"),) * 9
    kept = Kept()
    with pytest.raises(StepFailedError, match=rf"at step 5 .*{what}.*smaller learning_rate"):
        loop_of(training, plan, kept).run()
    assert [checkpoint.step for checkpoint in kept.all] == [3]


def test_a_training_is_continued() -> None:
    """One that goes on from another's end begins at its step, and then from its own checkpoints."""
    short = request(evaluate_every=1, patience=1, checkpoint_every=1)
    kept = Kept()
    first = Sums(short)
    loop_of(first, short, kept).run()
    assert first.state["stopped_at"] == 3
    more = request(steps=8, evaluate_every=1, patience=2, checkpoint_every=2)
    own, heard = Kept(), Heard()
    with pytest.raises(StopRequestedError):
        loop_of(Sums(more), more, own, start_from=kept.latest, look=Stop(2), saying=heard).run()
    assert heard.of("started") == [{"step": 3, "steps": 8, "resumed": False}]
    second = Sums(more)
    assert loop_of(second, more, own, start_from=kept.latest).run()
    assert list(second.seen) == [4, 5, 6]  # after its own checkpoint of step 4
    assert second.state["stopped_at"] == 7  # 0.4 at step 5 was better, and then two were not


def test_a_training_that_cannot_be_continued() -> None:
    """Neither one that has as many steps already, nor one of other networks."""
    plan, kept = request(steps=3), Kept()
    loop_of(Sums(plan), plan, kept).run()
    with pytest.raises(TrainingError, match=r"^steps: .*after 3: ask for more"):
        loop_of(Sums(plan), plan, start_from=kept.latest).run()
    with pytest.raises(TrainingError, match=r"continue_from takes the same request"):
        loop_of(Sums(request(), width=5), request(), start_from=kept.latest).run()
    with pytest.raises(TrainingError, match=r"continue_from takes the same request"):
        loop_of(Sums(request(), width=1), request(), start_from=kept.latest).run()


def test_it_makes_way_with_a_checkpoint() -> None:
    """One that others wait for keeps what it has, and the rest of it comes out the same."""
    plan = request()
    whole = Sums(plan)
    loop_of(whole, plan).run()
    kept, heard = Kept(), Heard()
    parts = Sums(plan)
    assert not loop_of(parts, plan, kept, give_way=lambda: True, saying=heard).run()
    assert heard.of("yielded")[0]["step"] == 1
    assert list(parts.seen) == [0]
    rest = Sums(plan)
    assert not loop_of(rest, plan, kept, give_way=lambda: True).run()
    assert loop_of(rest, plan, kept, give_way=lambda: True, slice_s=60).run()
    assert list(rest.seen) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert_same(whole, rest)


def test_a_stop_keeps_what_was_made() -> None:
    """A worker that ends costs no step, and the rest comes out the same."""
    plan = request(checkpoint_every=9)
    whole, kept = Sums(plan), Kept()
    loop_of(whole, plan).run()
    parts = Sums(plan)
    with pytest.raises(StopRequestedError):
        loop_of(parts, plan, kept, stopping=lambda: len(parts.seen) == 5).run()
    rest = Sums(plan)
    assert loop_of(rest, plan, kept).run()
    assert list(rest.seen) == [5, 6, 7, 8]
    assert_same(whole, rest)


@pytest.mark.parametrize("at", [0, 4, 6])
def test_a_pause(at: int) -> None:
    """It stops before the next step with a checkpoint of this one, and the rest is the same."""
    plan = request()
    whole = Sums(plan)
    loop_of(whole, plan).run()
    kept, heard, parts = Kept(), Heard(), Sums(plan)
    assert not loop_of(parts, plan, kept, saying=heard, pause=lambda: len(parts.seen) == at).run()
    assert heard.of("yielded") == [{"step": at, "why": "paused"}]
    assert list(parts.seen) == list(range(at))
    steps = [checkpoint.step for checkpoint in kept.all]
    assert steps == {0: [0], 4: [3, 4], 6: [3, 6]}[at]
    rest = Sums(plan)
    assert loop_of(rest, plan, kept).run()
    assert list(rest.seen) == list(range(at, 9))
    assert_same(whole, rest)


def test_speed_is_that_of_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What evaluations, samples and checkpoints take is not counted."""
    clock = SimpleNamespace(now=0.0)

    class Slow(Sums):
        def step(self, step: int) -> Numbers:
            clock.now += 2
            return super().step(step)

        def evaluate(self, step: int) -> Numbers:
            clock.now += 100
            return super().evaluate(step)

    class Far(Kept):
        def save(self, checkpoint: Any) -> None:
            clock.now += 100
            super().save(checkpoint)

    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock.now))
    plan, heard = request(evaluate_every=1, checkpoint_every=2), Heard()
    loop_of(Slow(plan), plan, Far(), saying=heard).run()
    assert {note["steps_per_s"] for note in heard.of("progress")} == {0.5}
    assert heard.of("progress")[0]["eta_s"] == 16


@pytest.mark.parametrize(
    ("optimizer", "package"), [("adamw-8bit", "bitsandbytes"), ("prodigy", "prodigyopt")]
)
def test_an_optimizer_that_is_not_installed(optimizer: str, package: str) -> None:
    """It is said which field asks for it, and which package is missing."""
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed here")
    with pytest.raises(ValueError, match=rf"^optimizer: .*{package}.*not installed"):
        Sums(request(optimizer=optimizer))
