"""How fast a training is, measured part by part while it goes on, and kept for estimates."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionError

from jobs.trainings.parts import Part
from storage import training_speeds

_log = logging.getLogger(__name__)

KEEP_EVERY_S = 60.0
LEAST_STEPS = 5
"""Fewer say little of those to come."""


@dataclass
class Meter:
    """Of one attempt at a training with these ``parts``, on a device of that sort.

    The first step of a part does not count: it compiles, or fills caches. All others do with
    whatever happens between them, such as evaluations. Nothing that fails here stops a training.
    """

    engine: Engine
    device: str
    parts: Sequence[Part]
    _part: Part | None = None
    _steps: int = 0
    _began_s: float = 0.0
    _last_s: float = 0.0
    _kept_s: float = field(default_factory=time.monotonic)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._keep()

    def stepped(self, step: int) -> None:
        """That ``step`` steps of all the parts have been made by now."""
        now_s = time.monotonic()
        part = self._part_of(step)
        if part is not self._part:
            self._keep()
            self._part, self._steps, self._began_s = part, 0, now_s
        else:
            self._steps += 1
        self._last_s = now_s
        if now_s - self._kept_s > KEEP_EVERY_S:
            self._keep()

    def _part_of(self, step: int) -> Part:
        end = 0
        for part in self.parts:
            end += part.steps
            if step <= end:
                return part
        return self.parts[-1]

    def _keep(self) -> None:
        part, took_s = self._part, self._last_s - self._began_s
        if part is None or self._steps < LEAST_STEPS or took_s <= 0:
            return
        self._kept_s = time.monotonic()
        try:
            training_speeds.keep(
                self.engine,
                device=self.device,
                digest=part.digest,
                sort=part.sort,
                work=part.work,
                says=part.says,
                steps_per_s=self._steps / took_s,
            )
        except (DBAPIError, NoConnectionError) as error:
            _log.warning("could not keep how fast a training is: %s", error)
