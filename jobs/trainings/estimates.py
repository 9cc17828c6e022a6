"""How long a training will take, as far as others have shown."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log

from sqlalchemy import Connection

from jobs.trainings.parts import Part
from storage import training_speeds
from storage.training_speeds import Speed

MEASURED = "measured here"
NOT_MEASURED = "not measured yet"


@dataclass(frozen=True)
class Estimate:
    """What a training will take. ``seconds`` and ``device`` None: nothing like it was measured.

    ``from_what`` says how they are known: they were `MEASURED`, or are a guess, scaled from
    others. ``pictures_seen`` counts every time that one is seen; texts likewise.
    """

    steps: int
    seconds: float | None
    from_what: str
    pictures_seen: int
    device: str | None

    @property
    def is_measured(self) -> bool:
        """Whether just this was done here before."""
        return self.from_what == MEASURED

    def __str__(self) -> str:
        if self.seconds is None:
            return f"{self.steps} steps; how long they take was {NOT_MEASURED}"
        guess = "" if self.is_measured else "a guess, "
        how_long = duration(self.seconds)
        return f"{self.steps} steps, about {how_long} ({guess}{self.from_what}, on {self.device})"


def estimate(connection: Connection, parts: Sequence[Part]) -> Estimate:
    """What these parts take together, on the device on which they were done last.

    The speed of a part that was never done is that of the nearest of its sort, in proportion to
    what a step has to do: so a guess.
    """
    steps = sum(part.steps for part in parts)
    seen = sum(part.steps * part.items for part in parts)
    speeds = training_speeds.of_sorts(connection, {part.sort for part in parts})
    found = [(device, [*_paired(parts, speeds, device)]) for device in _devices(speeds)]
    whole = [(device, pairs) for device, pairs in found if len(pairs) == len(parts)]
    if not whole:
        return Estimate(steps, None, NOT_MEASURED, seen, None)
    # The devices come newest first, and what was measured is better than a guess.
    device, pairs = min(whole, key=lambda item: not all(map(_is_exact, item[1])))
    seconds = sum(
        part.steps / speed.steps_per_s * (part.work / speed.work) for part, speed in pairs
    )
    scaled = [f"{part.name}: {speed.says}" for part, speed in pairs if not _is_exact((part, speed))]
    from_what = f"scaled from {', '.join(scaled)}" if scaled else MEASURED
    return Estimate(steps, round(seconds, 1), from_what, seen, device)


def duration(seconds: float) -> str:
    """Such as `2 h 10 min`, `12 min` or `40 s`."""
    minutes = round(seconds / 60)
    if seconds < 90:  # noqa: PLR2004 (1 min would be too coarse)
        return f"{max(round(seconds), 1)} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _devices(speeds: Sequence[Speed]) -> list[str]:
    return list(dict.fromkeys(speed.device for speed in speeds))


def _paired(
    parts: Sequence[Part], speeds: Sequence[Speed], device: str
) -> Iterator[tuple[Part, Speed]]:
    """Each part that has any, with the speed that says most about it."""
    for part in parts:
        alike = [speed for speed in speeds if (speed.device, speed.sort) == (device, part.sort)]
        if alike:
            yield part, min(alike, key=lambda speed: _distance(part, speed))


def _distance(part: Part, speed: Speed) -> tuple[bool, float]:
    # Logarithms: twice as much is as far as half as much.
    return not _is_exact((part, speed)), abs(log(part.work / speed.work))


def _is_exact(pair: tuple[Part, Speed]) -> bool:
    part, speed = pair
    return part.digest == speed.digest
