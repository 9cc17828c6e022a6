"""The loop of every training: steps, and between them checkpoints, evaluations and samples."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from jobs.trainings.requests import TrainingRequest
from storage.objects import ClockSkewError, ObjectStoreError
from workers.family import StopRequestedError
from workers.stopping import LOOK_S
from workers.training import draws
from workers.training.checkpoints import Checkpoint
from workers.training.trainer import (
    Numbers,
    Sample,
    StepFailedError,
    TimeUpError,
    Training,
    TrainingError,
)

_log = logging.getLogger(__name__)

SAY_EVERY_S = 2.0
"""How often progress is told at most; the last step always is."""
_RATE_OVER_S = 30.0
"""The speed is that of about so many seconds."""
ASK_EVERY_S = 10.0
"""How often it is asked whether others wait, once its turn has been long enough."""
PATIENCE_S = 300.0
"""How long the last checkpoint waits for a bucket that is away, while the lease is renewed."""


class Keeping(Protocol):
    """Where checkpoints are kept, see `workers.training.checkpoints.Checkpoints`."""

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep it."""

    def latest(self) -> Checkpoint | None:
        """The last one."""


class Saying(Protocol):
    """Who is told how far it is."""

    def note(self, name: str, data: dict[str, Any]) -> None:
        """That something has happened."""

    def show(self, step: int, sample: Sample) -> None:
        """What it makes now."""


@dataclass
class Loop:
    """A training, from its last checkpoint to its end.

    ``look`` raises `workers.family.StopRequestedError` where going on is of no use;
    ``give_way`` says, after ``slice_s`` seconds, whether others wait; ``stepped`` is told
    how many steps have been made, after each; ``pause`` says before each whether to stop there.
    """

    training: Training
    request: TrainingRequest
    seed: int
    checkpoints: Keeping
    saying: Saying
    look: Callable[[], None]
    give_way: Callable[[], bool]
    start_from: Callable[[], Checkpoint | None] = lambda: None
    """Where to begin if it has no checkpoint of its own: another training's end."""
    slice_s: float = 0.0
    """How long its turn is, before it is asked whether others wait."""
    max_seconds: float = math.inf
    """How long it may be at work, in sum over its attempts up to the last checkpoint of each."""
    stopping: Callable[[], bool] = lambda: False
    """Whether the worker ends: what has been made is kept, if the bucket takes it at once."""
    stepped: Callable[[int], None] = lambda _step: None
    pause: Callable[[], bool] = lambda: False
    _earlier_s: float = 0.0
    _began_s: float = 0.0
    _ask_s: float = 0.0
    _kept_step: int | None = None
    _best: dict[str, Any] = field(default_factory=dict)
    _away: bool = False

    def run(self) -> bool:
        """Train up to the end; False: it was paused or gave way, and goes on from a checkpoint.

        Raises:
            StopRequestedError: what ``look`` raises.
            TimeUpError: it has been at work for ``max_seconds``; a checkpoint is kept.
            TrainingError: it cannot go on.
            ObjectStoreError: the bucket does not have its last checkpoint.
        """
        step = self._begin()
        speed = _Speed()
        while step < self.training.steps:
            if self._has_to_leave(step):
                return False
            with speed:
                draws.begin(self.seed, step)
                numbers = self.training.step(step)
            step += 1
            _check(step, numbers)
            self.stepped(step)
            is_last = step == self.training.steps
            if is_last or speed.is_due():
                self._tell(step, numbers, speed.steps_per_s)
            if self._is_time(step, self.request.sample_every):
                self._sample(step)
            if self._is_time(step, self.request.evaluate_every) and self._evaluate(step):
                self.saying.note("ended", {"step": step, "why": "no improvement"})
                self.state["stopped_at"] = step
                is_last = True
            is_over = not is_last and self._is_over()
            if is_last or is_over or self._is_time(step, self.request.between_checkpoints):
                is_kept = self._save(step, is_last=is_last)
                if is_last:
                    return True
                if is_over and not is_kept:
                    self._ask_s = 0.0  # the next one may be
                if is_kept and is_over:
                    self.saying.note("yielded", {"step": step, "why": "others wait"})
                    return False
        return True

    def _has_to_leave(self, step: int) -> bool:
        """Whether it is paused. Other reasons not to make a step are raised, see `run`."""
        self.look()
        if self.stopping():
            if self._kept_step != step:
                self._save(step, is_last=False)  # tried once: there is not much time
            raise StopRequestedError
        self._check_time(step)
        if self.pause():
            self._keep(step)
            self.saying.note("yielded", {"step": step, "why": "paused"})
            return True
        return False

    def _is_over(self) -> bool:
        """Whether its turn is over, and others wait for theirs."""
        now_s = time.monotonic()
        if now_s < self._ask_s:
            return False
        self._ask_s = now_s + ASK_EVERY_S
        return self.give_way()

    @property
    def state(self) -> dict[str, Any]:
        """The training's state."""
        return self.training.state

    @property
    def seconds(self) -> float:
        """How long it has been at work."""
        return self._earlier_s + time.monotonic() - self._began_s

    def _check_time(self, step: int) -> None:
        if self.seconds < self.max_seconds:
            return
        self._keep(step)
        raise TimeUpError(step)

    def _keep(self, step: int) -> None:
        """Have a checkpoint of this very step."""
        if self._kept_step != step:
            self._save(step, is_last=True)

    def _begin(self) -> int:
        self._began_s = time.monotonic()
        own = self.checkpoints.latest()
        checkpoint = own or self.start_from()
        step = 0
        if checkpoint:
            step = checkpoint.step
            self._load(checkpoint)
            if own is None:
                self._continue(step)
            else:
                self._kept_step = step
                self._earlier_s = checkpoint.state.get("seconds", 0.0)
        self.training.resume(step)
        self._ask_s = time.monotonic() + self.slice_s
        data = {"step": step, "steps": self.training.steps, "resumed": own is not None}
        self.saying.note("started", data)
        return self.training.steps if "stopped_at" in self.state else step

    def _load(self, checkpoint: Checkpoint) -> None:
        kept = checkpoint.state
        try:
            for name, learner in self.training.learners.items():
                learner.load(checkpoint.tensors[name], kept["learners"][name])
        except (KeyError, ValueError) as error:
            raise TrainingError(
                f"the checkpoint of step {checkpoint.step} is of another training ({error}): "
                "continue_from takes the same request with another name and more steps"
            ) from error
        self._best = dict(kept["best"])
        self.training.state = dict(kept["training"])

    def _continue(self, step: int) -> None:
        """Go on where another training has ended, which may have been for want of improvement."""
        if step >= self.training.steps:
            raise TrainingError(
                f"steps: what continue_from names has ended after {step}: ask for more"
            )
        self.state.pop("stopped_at", None)
        if self._best:
            self._best["worse"] = 0

    def _save(self, step: int, *, is_last: bool) -> bool:
        """Whether the checkpoint is kept.

        While the bucket is away the training goes on; the last one is tried again and again.

        Raises:
            ObjectStoreError: the last one, patience is at its end.
        """
        learners = self.training.learners
        state = {
            "learners": {name: learner.state() for name, learner in learners.items()},
            "training": self.training.state,
            "best": self._best,
            "seconds": self.seconds,
        }
        tensors = {name: learner.tensors() for name, learner in learners.items()}
        checkpoint = Checkpoint(step, tensors, state)
        deadline_s = time.monotonic() + PATIENCE_S
        pause_s = 0.5
        while True:
            try:
                self.checkpoints.save(checkpoint)
            except ObjectStoreError as error:
                self._note(error)
                if not is_last:
                    return False
                if isinstance(error, ClockSkewError) or time.monotonic() > deadline_s:
                    raise
            else:
                self._note(None)
                self._kept_step = step
                self.saying.note("checkpoint", {"step": step})
                return True
            self._pause(pause_s)
            pause_s = min(2 * pause_s, 10)

    def _pause(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            self.look()
            if self.stopping():
                raise StopRequestedError
            time.sleep(min(LOOK_S, seconds))

    def _note(self, error: ObjectStoreError | None) -> None:
        """Say once when the bucket goes away, and once when it is back."""
        was_away, self._away = self._away, error is not None
        if error and not was_away:
            _log.warning("the bucket takes no checkpoint, and the training goes on: %s", error)
        if was_away and not error:
            _log.info("the bucket takes checkpoints again")

    def _sample(self, step: int) -> None:
        draws.begin(self.seed, "samples")  # the same at each time, so that they can be compared
        for sample in self.training.samples(step):
            self.look()
            self.saying.show(step, sample)

    def _evaluate(self, step: int) -> bool:
        """Whether it is time to end, since it has not become better for long."""
        draws.begin(self.seed, "evaluation")
        numbers = self.training.evaluate(step)
        _check(step, numbers)
        self.saying.note("evaluated", {"step": step, **numbers})
        self.state["evaluated"] = numbers  # for the card of what is made
        watched = self.training.watched
        if watched is None or watched not in numbers:
            return False
        if numbers[watched] < self._best.get("value", math.inf):
            self._best = {"value": numbers[watched], "step": step, "worse": 0}
        else:
            self._best["worse"] += 1
        return self.request.patience is not None and self._best["worse"] >= self.request.patience

    def _tell(self, step: int, numbers: Numbers, steps_per_s: float) -> None:
        left = self.training.steps - step
        self.saying.note(
            "progress",
            {
                "step": step,
                "steps": self.training.steps,
                **numbers,
                "steps_per_s": steps_per_s,
                "eta_s": left / steps_per_s if steps_per_s else None,
            },
        )

    def _is_time(self, step: int, every: int | None) -> bool:
        return bool(every) and (step % every == 0 or step == self.training.steps)  # type: ignore[operator]


def _check(step: int, numbers: Numbers) -> None:
    wrong = [name for name, value in numbers.items() if not math.isfinite(value)]
    if wrong:
        raise StepFailedError(
            f"at step {step} {', '.join(wrong)} is not a finite number any more: try a smaller "
            "learning_rate, or precision: float32"
        )


class _Speed:
    """Steps per second, over the last while, without what happens between steps."""

    def __init__(self) -> None:
        self.steps_per_s = 0.0
        self._told_s = self._began_s = time.monotonic()
        self._steps = 0
        self._seconds = 0.0

    def __enter__(self) -> None:
        self._began_s = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._steps += 1
        self._seconds += time.monotonic() - self._began_s
        self.steps_per_s = self._steps / self._seconds if self._seconds else 0.0
        if self._seconds > _RATE_OVER_S:
            self._steps, self._seconds = self._steps // 2, self._seconds / 2

    def is_due(self) -> bool:
        now_s = time.monotonic()
        if now_s - self._told_s < SAY_EVERY_S:
            return False
        self._told_s = now_s
        return True
