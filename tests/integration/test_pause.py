"""How single jobs are paused and resumed, wherever they are."""

from collections.abc import Callable
from functools import partial
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine

from storage.ledger import cancel, claim, finish, pause, recover, submit
from storage.ledger.cancel import WrongStateError
from storage.ledger.claim import Batch, Lease
from storage.ledger.finish import Deferred, Outcome, Released, Reused, Yielded
from storage.lifecycle import JobStatus
from tests.integration.ledger_cases import (
    broken,
    campaign_jobs,
    check_books,
    execute,
    expire,
    finish_all,
    ids,
    job_row,
    let_wait_end,
    made,
    new_job,
    statuses,
    submit_campaign,
    submit_jobs,
    take,
    take_some,
    together,
)
from tests.integration.test_cancel import another_tenant, notified, retryable

SUCCEEDED, FAILED, CANCELLED = JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED
WAITING, QUEUED, RUNNING = JobStatus.WAITING, JobStatus.QUEUED, JobStatus.RUNNING


def assert_paused(engine: Engine, job_id: UUID, attempts: int = 0, *, solo: bool = False) -> None:
    """It waits for its resumption and nothing else brings it back; then it is queued."""
    let_wait_end(engine)
    assert recover.promote(engine) == 0
    assert take(engine) is None
    job = job_row(engine, job_id)
    assert (job.status, job.wait_reason, job.claim_id) == ("waiting", "pause", None)
    assert (job.attempts, job.solo, job.pause_requested) == (attempts, solo, True)
    check_books(engine)
    assert pause.resume_job(engine, job.tenant_id, job_id) == "default"
    job = job_row(engine, job_id)
    assert (job.status, job.wait_reason, job.available_at) == ("queued", None, None)
    assert (job.attempts, job.solo, job.pause_requested) == (attempts, solo, False)


def _claim(engine: Engine, claimed: list[Batch | None]) -> None:
    claimed.append(take(engine))


def refused(act: Callable[[], object]) -> str:
    """What the caller is told of a job that is not in such a state."""
    with pytest.raises(WrongStateError) as caught:
        act()
    return caught.value.status


def test_a_queued_job(engine: Engine, tenant_id: UUID) -> None:
    """It waits at once, does not run until it is resumed, and runs then; pausing twice is once."""
    [job_id] = submit_jobs(engine, tenant_id, 1)
    for _ in range(2):
        assert pause.pause_job(engine, tenant_id, job_id) is WAITING
    assert_paused(engine, job_id)
    finish_all(engine, take_some(engine))
    assert statuses(engine, job_id) == [SUCCEEDED]


def test_a_job_that_waits_for_its_next_attempt(engine: Engine, tenant_id: UUID) -> None:
    """It does not come back when that would be due; what it has used up stays so."""
    [job_id] = submit_jobs(engine, tenant_id, 1)
    finish_all(engine, take_some(engine), retryable)
    assert pause.pause_job(engine, tenant_id, job_id) is WAITING
    assert_paused(engine, job_id, attempts=1)


def test_a_running_job(engine: Engine, tenant_id: UUID) -> None:
    """Its worker is told, and hears of it at each beat; its mates are not concerned."""
    first, second = submit_jobs(engine, tenant_id, 2)
    batch = take_some(engine)
    heard = notified(engine, partial(pause.pause_job, engine, tenant_id, second))
    assert heard == [str(batch.claim_id)]
    assert pause.pause_job(engine, tenant_id, second) is RUNNING
    assert claim.renew(engine, batch.claim_id) == Lease(True, frozenset(), frozenset({second}))
    finish.finish(engine, batch.claim_id, [made(first), Released(second)])
    assert statuses(engine, first, second) == [SUCCEEDED, WAITING]
    assert_paused(engine, second)


@pytest.mark.parametrize(
    ("outcome", "attempts"),
    [
        (Yielded, 0),
        (partial(Deferred, wait_s=0), 0),
        (partial(Reused, from_job_id=uuid4()), 0),
        (retryable, 1),
    ],
    ids=["yielded", "deferred", "reused", "failed"],
)
def test_however_it_comes_back(
    engine: Engine, tenant_id: UUID, outcome: Callable[[UUID], Outcome], attempts: int
) -> None:
    """Whatever would have it tried again, it is resumed first."""
    [job_id] = submit_jobs(engine, tenant_id, 1)
    batch = take_some(engine)
    pause.pause_job(engine, tenant_id, job_id)
    assert finish_all(engine, batch, outcome) == {job_id: WAITING}
    assert_paused(engine, job_id, attempts)


def test_what_ends_before_it_has_paused(engine: Engine, tenant_id: UUID) -> None:
    """A success counts, and so does a failure for good; there is nothing to resume then."""
    good, bad = submit_jobs(engine, tenant_id, 2)
    batch = take_some(engine)
    for job_id in (good, bad):
        pause.pause_job(engine, tenant_id, job_id)
    finish.finish(engine, batch.claim_id, [made(good), broken(bad, retry=False)])
    assert statuses(engine, good, bad) == [SUCCEEDED, FAILED]
    for job_id in (good, bad):
        status = statuses(engine, job_id)[0].value
        assert refused(partial(pause.pause_job, engine, tenant_id, job_id)) == status
        says = f"{status}, not paused"
        assert refused(partial(pause.resume_job, engine, tenant_id, job_id)) == says
    cancel.retry_job(engine, tenant_id, bad)
    release = take_some(engine)
    assert claim.renew(engine, release.claim_id).paused == frozenset(), "a retry is a new request"


def test_resumed_before_it_has_paused(engine: Engine, tenant_id: UUID) -> None:
    """Its worker is told again; if that has stopped already, the job is queued."""
    [job_id] = submit_jobs(engine, tenant_id, 1)
    batch = take_some(engine)
    pause.pause_job(engine, tenant_id, job_id)
    heard = notified(engine, partial(pause.resume_job, engine, tenant_id, job_id))
    assert heard == [str(batch.claim_id)]
    assert claim.renew(engine, batch.claim_id).paused == frozenset()
    says = "running, not paused"
    assert refused(partial(pause.resume_job, engine, tenant_id, job_id)) == says
    assert finish_all(engine, batch, Yielded) == {job_id: QUEUED}
    assert job_row(engine, job_id).attempts == 0
    assert ids(take_some(engine)) == [job_id]


def test_a_lease_that_expires(engine: Engine, tenant_id: UUID) -> None:
    """What was to be paused waits, and is known as one that may kill its process."""
    paused, mate = submit_jobs(engine, tenant_id, 2)
    batch = take_some(engine)
    pause.pause_job(engine, tenant_id, paused)
    expire(engine, batch.claim_id)
    assert recover.recover_claim(engine)
    assert statuses(engine, paused, mate) == [WAITING, QUEUED]
    assert finish_all(engine, batch) == {}
    assert ids(take_some(engine)) == [mate]
    assert_paused(engine, paused, attempts=1, solo=True)


def test_the_last_lease_expires(engine: Engine, tenant_id: UUID) -> None:
    """Without an attempt left there is nothing to resume."""
    [job_id] = submit_jobs(engine, tenant_id, 1)
    execute(engine, "UPDATE jobs SET max_attempts = 1")
    batch = take_some(engine)
    pause.pause_job(engine, tenant_id, job_id)
    expire(engine, batch.claim_id)
    assert recover.recover_claim(engine)
    assert statuses(engine, job_id) == [FAILED]
    check_books(engine)


def test_cancelled_while_it_is_paused(engine: Engine, tenant_id: UUID) -> None:
    """It is cancelled at once; of one that runs, cancel wins. A retry pauses nothing."""
    paused, running = submit_jobs(engine, tenant_id, 2)
    pause.pause_job(engine, tenant_id, paused)
    batch = take_some(engine)
    pause.pause_job(engine, tenant_id, running)
    assert cancel.cancel_job(engine, tenant_id, paused) is CANCELLED
    assert cancel.cancel_job(engine, tenant_id, running) is RUNNING
    assert finish_all(engine, batch, Released) == {running: CANCELLED}
    assert refused(partial(pause.pause_job, engine, tenant_id, paused)) == "cancelled"
    check_books(engine)
    cancel.retry_job(engine, tenant_id, paused)
    assert not job_row(engine, paused).pause_requested
    assert ids(take_some(engine)) == [paused]


def test_what_cannot_be_paused(engine: Engine, tenant_id: UUID) -> None:
    """A campaign's job, and one that waits for what another makes: the caller is told why."""
    [part] = campaign_jobs(engine, submit_campaign(engine, tenant_id, 1))
    says = refused(partial(pause.pause_job, engine, tenant_id, part))
    assert says == "part of a campaign, whose jobs cannot be paused"
    [need] = submit_jobs(engine, tenant_id, 1, "b")
    needy = submit.submit_job(engine, new_job(tenant_id, "b", needs=(need,)))
    says = refused(partial(pause.pause_job, engine, tenant_id, needy))
    assert says == "waiting for what another job makes: pause it once it is queued"
    assert pause.pause_job(engine, tenant_id, need) is WAITING
    assert statuses(engine, part, need, needy) == [QUEUED, WAITING, WAITING]
    check_books(engine)


def test_other_tenants_jobs(engine: Engine, tenant_id: UUID) -> None:
    """What belongs to another tenant is as if it were not there."""
    queued, paused = submit_jobs(engine, tenant_id, 2)
    pause.pause_job(engine, tenant_id, paused)
    other = another_tenant(engine)
    before = [job_row(engine, job_id) for job_id in (queued, paused)]
    assert pause.pause_job(engine, other, queued) is None
    assert pause.resume_job(engine, other, paused) is None
    assert pause.pause_job(engine, tenant_id, uuid4()) is None
    assert pause.resume_job(engine, tenant_id, uuid4()) is None
    assert [job_row(engine, job_id) for job_id in (queued, paused)] == before


def test_at_the_same_moment(engine: Engine, tenant_id: UUID) -> None:
    """A pause and a claim, then a pause and a release: whoever is first, none of it is lost."""
    [job_id] = submit_jobs(engine, tenant_id, 1)
    stop = partial(pause.pause_job, engine, tenant_id, job_id)
    for _ in range(10):
        claimed: list[Batch | None] = []
        _, status = together(partial(_claim, engine, claimed), stop)
        assert status == (RUNNING if claimed[0] else WAITING)
        if claimed[0]:
            together(partial(finish_all, engine, claimed[0], Released), stop)
        assert_paused(engine, job_id)
