"""What a training consists of, how much of it is left, and what it may have at most."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from jobs.trainings import caps, estimates, parts
from jobs.trainings.caps import Caps
from jobs.trainings.estimates import Estimate
from jobs.trainings.requests import FinetuneRequest, TrainRequest
from storage.datasets import Dataset, Kind
from storage.models import BUILT_IN

SCRATCH = TrainRequest.model_validate(
    {
        "name": "things",
        "dataset": "things",
        "size": "64x64",
        "steps": 100,
        "batch": 8,
        "accumulate": 2,
        "architecture": {
            "type": "text-to-image",
            "judge": {"steps": 10, "batch": 4},
            "compose": {},
            "autoencoder": {"steps": 50, "batch": 2, "crop_px": 32},
        },
    }
)
LORA = FinetuneRequest.model_validate(
    {
        "name": "brand",
        "dataset": "brand",
        "model": "debug-diffusion",
        "size": "64x64",
        "steps": 100,
        "batch": 4,
        "rank": 4,
    }
)
BASE = BUILT_IN["debug-diffusion"]


def test_the_parts_of_a_pipeline() -> None:
    """Judge, autoencoder and denoiser, each with what its steps have to do."""
    found = parts.parts_of(SCRATCH, None)
    assert [(part.name, part.steps, part.items, part.work) for part in found] == [
        ("judge", 10, 4, 4),
        ("autoencoder", 50, 2, 2 * 32 * 32),
        ("denoiser", 100, 16, 16 * 64 * 64),
    ]
    assert found[2].says == "16 a step at 64x64"


@pytest.mark.parametrize(
    ("done", "left"),
    [(0, [10, 50, 100]), (10, [50, 100]), (30, [30, 100]), (159, [1]), (160, [])],
)
def test_what_is_left(done: int, left: list[int]) -> None:
    """Steps that were made are made of the first parts first."""
    assert [part.steps for part in parts.after(parts.parts_of(SCRATCH, None), done)] == left


@pytest.mark.parametrize(
    ("changes", "same_sort", "same_digest"),
    [
        ({"steps": 7, "name": "other", "seed": 3, "learning_rate": 1e-3}, True, True),
        ({"batch": 2}, True, False),
        ({"size": "128x64"}, True, False),
        ({"batch": 2, "accumulate": 2}, True, False),
        ({"rank": 8}, False, False),
        ({"precision": "bfloat16"}, False, False),
        ({"gradient_checkpointing": True}, False, False),
    ],
)
def test_what_decides_the_speed(
    changes: dict[str, object], *, same_sort: bool, same_digest: bool
) -> None:
    """Batch and size leave the sort as it is, and the number of steps leaves everything."""
    (one,) = parts.parts_of(LORA, BASE)
    (other,) = parts.parts_of(LORA.model_copy(update=changes), BASE)
    assert (one.sort == other.sort, one.digest == other.digest) == (same_sort, same_digest)


@pytest.mark.parametrize(
    ("seconds", "says"),
    [(0.2, "1 s"), (89, "89 s"), (90, "2 min"), (3590, "1 h 0 min"), (7800, "2 h 10 min")],
)
def test_durations(seconds: float, says: str) -> None:
    """As people say them."""
    assert estimates.duration(seconds) == says


def dataset(count: int, kind: Kind = "pictures") -> Dataset:
    """A dataset of so many items."""
    now = datetime.now(UTC)
    return Dataset("things", kind, "MIT", "", None, None, count, "0", "key", now, None)


LIMITS = Caps(tenant="acme", max_steps=100, max_hours=1, max_pictures=10)


@pytest.mark.parametrize(
    ("steps", "given", "seconds", "from_what", "fields"),
    [
        (100, dataset(10), 3600, estimates.MEASURED, []),
        (101, dataset(11), 3601, estimates.MEASURED, ["steps", "dataset", "steps"]),
        (100, dataset(11, "text"), 9999, "scaled from 4 a step", []),
        (100, dataset(1), None, estimates.NOT_MEASURED, []),
    ],
)
def test_what_is_too_much(
    steps: int, given: Dataset, seconds: float | None, from_what: str, fields: list[str]
) -> None:
    """Caps are about pictures and not texts, and what is only guessed refuses nothing."""
    estimate = Estimate(steps, seconds, from_what, 0, "cpu")
    problems = list(caps.problems_of(LIMITS, steps, given, estimate))
    assert [problem.field for problem in problems] == fields


def test_what_a_cap_says() -> None:
    """The number, the cap, and what to do, at submit and at the end."""
    estimate = Estimate(101, 7200, estimates.MEASURED, 0, "cpu x2")
    steps, pictures, hours = caps.problems_of(LIMITS, 101, dataset(11), estimate)
    assert "it has 101 steps" in steps.message
    assert "`presswork tenant limits acme --max-steps`, or PRESSWORK_TRAIN_MAX_STEPS for all" in (
        steps.message
    )
    assert "has 11 pictures, and a training may have 10:" in pictures.message
    assert "about 2 h 0 min (measured here, on cpu x2), and a training may take 1 h" in (
        hours.message
    )
    job_id = UUID(int=1)
    said = caps.used_up(LIMITS, job_id=job_id, step=7, steps=100)
    assert "has made 7 of 100 steps" in said
    assert f"`presswork job retry {job_id}`" in said
