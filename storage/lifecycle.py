"""The states of jobs, campaigns and scheduled runs, and the ways between them: the only truth."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class JobStatus(StrEnum):
    """Where a job is. Each value is also what SQL, the API and the exports say."""

    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class WaitReason(StrEnum):
    """Why a waiting job is not queued."""

    BACKOFF = "backoff"
    WINDOW = "window"
    NEED = "need"
    PAUSE = "pause"


_S = JobStatus

TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = MappingProxyType(
    {
        _S.WAITING: frozenset({_S.QUEUED, _S.FAILED, _S.CANCELLED, _S.EXPIRED}),
        _S.QUEUED: frozenset({_S.RUNNING, _S.WAITING, _S.CANCELLED, _S.EXPIRED}),
        _S.RUNNING: frozenset(
            {_S.SUCCEEDED, _S.FAILED, _S.CANCELLED, _S.EXPIRED, _S.QUEUED, _S.WAITING}
        ),
        _S.SUCCEEDED: frozenset(),
        _S.FAILED: frozenset({_S.QUEUED, _S.WAITING}),
        _S.CANCELLED: frozenset({_S.QUEUED, _S.WAITING}),
        _S.EXPIRED: frozenset(),
    }
)
"""Every allowed change of a job's status."""

FINAL = frozenset({_S.SUCCEEDED, _S.FAILED, _S.CANCELLED, _S.EXPIRED})
"""Nothing happens to these any more, unless someone asks for a retry."""

RETRYABLE = frozenset(state for state in FINAL if _S.QUEUED in TRANSITIONS[state])
"""The final states that an explicit retry leaves."""

CANCELLABLE = frozenset(state for state in _S if _S.CANCELLED in TRANSITIONS[state])
"""The states in which a cancel still means something."""


class CampaignStatus(StrEnum):
    """Where a campaign is. ``finished`` is never stored: it follows from the counters."""

    COMPILING = "compiling"
    RUNNING = "running"
    FINISHED = "finished"
    CANCELLED = "cancelled"


def campaign_status(stored: CampaignStatus, counts: Mapping[JobStatus, int]) -> CampaignStatus:
    """What callers see: a running campaign whose jobs are all final is finished."""
    unfinished = sum(n for status, n in counts.items() if status not in FINAL)
    if stored is CampaignStatus.RUNNING and not unfinished:
        return CampaignStatus.FINISHED
    return stored


class RunStatus(StrEnum):
    """Where one fire of a schedule is. Every ``due`` run becomes one of the others, once."""

    DUE = "due"
    STARTED = "started"
    SKIPPED = "skipped"
    FAILED = "failed"


class RunTrigger(StrEnum):
    """What made a run."""

    CRON = "cron"
    MANUAL = "manual"
