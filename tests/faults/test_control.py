"""The negative control: where fencing is switched off, the suite reports what it must."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest

from storage import models
from storage.models import BUILT_IN
from tests.faults import launch
from tests.faults.cases import database, workers
from tests.faults.house import House
from tests.faults.trial import run

UNFENCED = "unfenced"
SLOTS = ("cpu-2", "cpu-3")
SEED = 1


@pytest.fixture(scope="module")
def unfenced(house: House) -> Iterator[House]:
    """The house, with a pool of workers whose writes are not fenced."""
    card = replace(BUILT_IN["debug-diffusion"], name=UNFENCED, pool=UNFENCED)
    with house.engine.begin() as connection:
        models.add(connection, card)
    for slot in SLOTS:
        house.start_worker(slot, {"PRESSWORK_POOL": UNFENCED, launch.FENCING: "off"})
    house.wait_for_workers(*SLOTS)
    yield house
    for slot in SLOTS:
        house.stop(slot)


@pytest.mark.parametrize("point", ["denoising", "finishing"])
def test_a_zombie_without_fencing_is_reported(unfenced: House, point: str) -> None:
    """A worker that was stopped past its lease, or stalls before its finish, doubles its jobs."""
    case = partial(workers.zombie, point=point, model=UNFENCED)
    finding = run(unfenced, case, SEED, settle_s=3)
    assert finding.doubled > 0
    assert finding.broken


def test_a_finish_that_is_run_again_without_fencing_is_reported(unfenced: House) -> None:
    """A worker that loses the answer to its COMMIT finishes the same jobs a second time."""
    case = partial(database.cut_at_commit, point="before-commit", forward=True, model=UNFENCED)
    finding = run(unfenced, case, SEED, settle_s=3)
    assert finding.doubled > 0
    assert finding.broken
