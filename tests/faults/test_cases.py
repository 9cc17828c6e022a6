"""The short form: every fault once. The long form is `make faults`."""

from pathlib import Path

import pytest

from tests.faults.cases import ALL, WITH_OWN_HOUSE
from tests.faults.house import House
from tests.faults.trial import NotHereError, look_back, run

SEED = 1


@pytest.mark.parametrize("name", ALL)
def test_fault(house: House, name: str) -> None:
    """Nothing is lost, doubled, left over or left behind."""
    try:
        finding = run(house, ALL[name], SEED)
    except NotHereError as error:
        pytest.skip(str(error))
    assert not finding.broken, finding.problem or finding


def test_what_was_well_has_stayed_so(house: House) -> None:
    """No late write of a zombie, and no look for orphans, has touched an earlier trial's jobs."""
    finding = look_back(house)
    assert not finding.broken, finding


@pytest.mark.parametrize("name", WITH_OWN_HOUSE)
def test_fault_in_a_house_of_its_own(tmp_path: Path, name: str) -> None:
    """The same where the house itself is part of the fault."""
    finding = WITH_OWN_HOUSE[name](tmp_path, SEED)
    assert not finding.broken, finding.problem or finding
