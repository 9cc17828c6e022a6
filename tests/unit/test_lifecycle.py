"""The states and the ways between them, against what is promised to callers."""

import itertools

import pytest

from storage.lifecycle import (
    CANCELLABLE,
    FINAL,
    RETRYABLE,
    TRANSITIONS,
    CampaignStatus,
    JobStatus,
    campaign_status,
)


def test_every_status_has_its_ways_out() -> None:
    """No status is forgotten, and none leads to itself."""
    assert set(TRANSITIONS) == set(JobStatus)
    assert all(status not in targets for status, targets in TRANSITIONS.items())


def test_every_status_is_reached() -> None:
    """From a new job, which is queued, every status can come about."""
    reached = {JobStatus.QUEUED}
    for _ in JobStatus:
        reached |= {target for status in reached for target in TRANSITIONS[status]}
    assert reached == set(JobStatus)


def test_only_running_succeeds() -> None:
    """Nothing succeeds that was not running, and nothing leaves `succeeded`."""
    ways = {status for status in JobStatus if JobStatus.SUCCEEDED in TRANSITIONS[status]}
    assert ways == {JobStatus.RUNNING}
    assert TRANSITIONS[JobStatus.SUCCEEDED] == frozenset()


def test_only_queued_is_claimed() -> None:
    """A waiting job cannot run before it was queued."""
    ways = {status for status in JobStatus if JobStatus.RUNNING in TRANSITIONS[status]}
    assert ways == {JobStatus.QUEUED}


def test_final_states_are_left_by_retry_only() -> None:
    """A final job can at most be queued or wait again; every other one can go several ways."""
    for status, targets in TRANSITIONS.items():
        if status in FINAL:
            assert targets <= {JobStatus.QUEUED, JobStatus.WAITING}
        else:
            assert JobStatus.CANCELLED in targets
            assert len(targets) > 1


def test_the_named_groups() -> None:
    """The groups are what callers were told, word for word."""
    assert {"succeeded", "failed", "cancelled", "expired"} == FINAL
    assert {"failed", "cancelled"} == RETRYABLE
    assert {"waiting", "queued", "running"} == CANCELLABLE


@pytest.mark.parametrize(
    "stored", [CampaignStatus.COMPILING, CampaignStatus.RUNNING, CampaignStatus.CANCELLED]
)
def test_campaign_status(stored: CampaignStatus) -> None:
    """Only a running campaign becomes finished, when no job is unfinished, whatever the mix."""
    for present in itertools.product([0, 2], repeat=len(JobStatus)):
        counts = dict(zip(JobStatus, present, strict=True))
        unfinished = (
            counts[JobStatus.WAITING] + counts[JobStatus.QUEUED] + counts[JobStatus.RUNNING]
        )
        over = stored is CampaignStatus.RUNNING and not unfinished
        expected = CampaignStatus.FINISHED if over else stored
        assert campaign_status(stored, counts) is expected
