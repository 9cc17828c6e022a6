"""How work comes back: leases that expired, hearts that beat on, waits that are over."""

from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, Engine

from storage.ledger import cancel, claim, recover
from storage.ledger.recover import Recovered
from storage.lifecycle import JobStatus
from tests.integration.ledger_cases import (
    at_commit,
    broken,
    check_books,
    counts,
    execute,
    expire,
    finish_all,
    ids,
    job_row,
    let_wait_end,
    release_all,
    rows,
    statuses,
    submit_campaign,
    submit_jobs,
    take,
    take_some,
    together,
    value,
)


def test_an_expired_lease(engine: Engine, tenant_id: UUID) -> None:
    """The jobs of a silent worker are queued again, alone from now on, their attempts counted."""
    campaign_id = submit_campaign(engine, tenant_id, 3)
    batch = take_some(engine)
    expire(engine, batch.claim_id)
    assert recover.recover_claim(engine) == Recovered(batch.claim_id, "tester", 3)
    assert recover.recover_claim(engine) is None
    for job_id in ids(batch):
        job = job_row(engine, job_id)
        assert (job.status, job.solo, job.claim_id, job.attempts) == ("queued", True, None, 1)
        assert (job.error, job.finished_at) == (None, None)
    assert counts(engine, campaign_id) == {JobStatus.QUEUED: 3}
    check_books(engine)
    for job_id in ids(batch):
        again = take_some(engine)
        assert (ids(again), again.jobs[0].attempt) == ([job_id], 2)


def test_only_what_was_running_comes_back(engine: Engine, tenant_id: UUID) -> None:
    """What the claim had finished stays finished, and other claims' jobs stay theirs."""
    submit_jobs(engine, tenant_id, 4)
    batch, other = take_some(engine, 2), take_some(engine, 2)
    done, lost = batch.jobs
    finish_all(engine, claim.Batch(batch.claim_id, "a", batch.lease_s, (done,)))
    expire(engine, batch.claim_id)
    assert recover.recover_claim(engine) == Recovered(batch.claim_id, "tester", 1)
    assert statuses(engine, done.id, lost.id) == [JobStatus.SUCCEEDED, JobStatus.QUEUED]
    assert statuses(engine, *ids(other)) == [JobStatus.RUNNING] * 2
    check_books(engine)


def test_the_lease_of_the_last_attempt(engine: Engine, tenant_id: UUID) -> None:
    """A job that has silenced a worker in its last attempt has failed, and says why."""
    campaign_id = submit_campaign(engine, tenant_id, 1)
    for attempt in (1, 2, 3):
        batch = take_some(engine)
        assert batch.jobs[0].attempt == attempt
        expire(engine, batch.claim_id)
        assert recover.recover_claim(engine)
    job = job_row(engine, batch.jobs[0].id)
    assert (job.status, job.attempts, job.error["code"]) == ("failed", 3, "lease_expired")
    assert counts(engine, campaign_id) == {JobStatus.FAILED: 1}
    check_books(engine)


def test_the_lease_of_a_cancelled_job(engine: Engine, tenant_id: UUID) -> None:
    """A job that was to be cancelled is cancelled when its worker falls silent, its mate is not."""
    campaign_id = submit_campaign(engine, tenant_id, 2)
    batch = take_some(engine)
    flagged, mate = ids(batch)
    cancel.cancel_job(engine, tenant_id, flagged)
    expire(engine, batch.claim_id)
    assert recover.recover_claim(engine)
    assert statuses(engine, flagged, mate) == [JobStatus.CANCELLED, JobStatus.QUEUED]
    assert job_row(engine, flagged).error is None
    assert counts(engine, campaign_id) == {JobStatus.CANCELLED: 1, JobStatus.QUEUED: 1}
    check_books(engine)


def test_the_last_attempt_of_a_cancelled_job(engine: Engine, tenant_id: UUID) -> None:
    """Cancel wins over failure, also at the last attempt."""
    [job_id] = submit_jobs(engine, tenant_id, 1)
    execute(engine, "UPDATE jobs SET attempts = 2")
    batch = take_some(engine)
    cancel.cancel_job(engine, tenant_id, job_id)
    expire(engine, batch.claim_id)
    assert recover.recover_claim(engine)
    assert statuses(engine) == [JobStatus.CANCELLED]


def test_a_lease_that_lasts(engine: Engine, tenant_id: UUID) -> None:
    """A claim is left alone until its lease has ended."""
    submit_jobs(engine, tenant_id, 2)
    take_some(engine)
    # Not by the lease's length: the server may have been up for less.
    execute(engine, "UPDATE claims SET lease_s = 0")
    assert recover.recover_claim(engine) is None
    assert statuses(engine) == [JobStatus.RUNNING] * 2
    execute(engine, "UPDATE claims SET lease_until = clock_timestamp() - interval '1 hour'")
    assert recover.recover_claim(engine)


def test_the_oldest_lease_first(engine: Engine, tenant_id: UUID) -> None:
    """Several expired leases are taken one by one, the one that ended first before the others."""
    submit_jobs(engine, tenant_id, 3)
    claims = [take_some(engine, 1).claim_id for _ in range(3)]
    for claim_id, hours in zip(claims, (1, 3, 2), strict=True):
        execute(
            engine,
            "UPDATE claims SET lease_s = 0,"
            " lease_until = clock_timestamp() - make_interval(hours => :hours) WHERE id = :id",
            id=claim_id,
            hours=hours,
        )
    taken = [recover.recover_claim(engine) for _ in range(4)]
    assert [each and each.claim_id for each in taken] == [claims[1], claims[2], claims[0], None]


def test_a_sweeper_that_was_cut_off(engine: Engine, tenant_id: UUID) -> None:
    """Who has been connected for less than the lease cannot know who was cut off as well."""
    submit_jobs(engine, tenant_id, 1)
    expire(engine, take_some(engine).claim_id)
    # As long as can be without the server being younger.
    execute(
        engine,
        "UPDATE claims SET lease_s ="
        " extract(epoch FROM clock_timestamp() - pg_postmaster_start_time()) / 2",
    )
    lease_s = value(engine, "SELECT lease_s FROM claims")
    assert recover.recover_claim(engine, connected_s=0) is None
    assert recover.recover_claim(engine, connected_s=lease_s * 0.99) is None
    assert statuses(engine) == [JobStatus.RUNNING]
    assert recover.recover_claim(engine, connected_s=lease_s * 1.01)


def test_a_server_that_has_just_started(engine: Engine, tenant_id: UUID) -> None:
    """No lease is taken before the server has been up for its length: nobody could renew it."""
    submit_jobs(engine, tenant_id, 1)
    take_some(engine)
    execute(
        engine,
        "UPDATE claims SET lease_until = clock_timestamp() - interval '1 hour', lease_s ="
        " extract(epoch FROM clock_timestamp() - pg_postmaster_start_time()) + 3600",
    )
    assert recover.recover_claim(engine) is None
    execute(
        engine,
        "UPDATE claims SET lease_s ="
        " extract(epoch FROM clock_timestamp() - pg_postmaster_start_time()) / 2",
    )
    assert recover.recover_claim(engine)


def test_sweepers_at_once_take_a_lease_once(engine: Engine, tenant_id: UUID) -> None:
    """However many sweepers look, each claim is taken by one of them."""
    for _ in range(10):
        submit_campaign(engine, tenant_id, 4)
        claims = []
        while batch := take(engine, 1):
            claims.append(batch.claim_id)
            expire(engine, batch.claim_id)
        taken = together(*[lambda: recover_all(engine)] * 4)
        assert sorted(each for some in taken for each in some) == sorted(claims)
        execute(engine, "UPDATE jobs SET attempts = 0")
        check_books(engine)


def recover_all(engine: Engine) -> list[UUID]:
    """Take every expired lease."""
    taken = []
    while recovered := recover.recover_claim(engine):
        taken.append(recovered.claim_id)
    return taken


def test_renew_extends_the_lease(engine: Engine, tenant_id: UUID) -> None:
    """A heartbeat makes the lease last its full length again, on the database's clock."""
    submit_jobs(engine, tenant_id, 2)
    batch, other = take_some(engine, 1), take_some(engine, 1)
    execute(engine, "UPDATE claims SET lease_until = clock_timestamp() - interval '1 hour'")
    assert claim.renew(engine, batch.claim_id) == claim.Lease(held=True, cancelled=frozenset())
    found = rows(
        engine, "SELECT id, extract(epoch FROM lease_until - clock_timestamp()) AS s FROM claims"
    )
    left_s = {row.id: row.s for row in found}
    assert batch.lease_s - 30 < left_s[batch.claim_id] <= batch.lease_s
    assert left_s[other.claim_id] < 0


def test_a_late_heartbeat_still_counts(engine: Engine, tenant_id: UUID) -> None:
    """A lease that has ended but was not taken yet can be renewed, and then it is safe."""
    submit_jobs(engine, tenant_id, 1)
    batch = take_some(engine)
    expire(engine, batch.claim_id)
    execute(engine, "UPDATE claims SET lease_s = 60")
    assert claim.renew(engine, batch.claim_id).held
    execute(engine, "UPDATE claims SET lease_s = 0")
    assert recover.recover_claim(engine) is None


def test_renew_tells_what_was_cancelled(engine: Engine, tenant_id: UUID) -> None:
    """The heartbeat's answer names the running jobs that are to stop, and no others."""
    submit_jobs(engine, tenant_id, 5)
    batch, other = take_some(engine, 3), take_some(engine, 1)
    first, second, _ = ids(batch)
    for job_id in (first, second, *ids(other)):
        cancel.cancel_job(engine, tenant_id, job_id)
    assert claim.renew(engine, batch.claim_id).cancelled == {first, second}
    finish_all(engine, claim.Batch(batch.claim_id, "a", 1, batch.jobs[:1]))
    assert claim.renew(engine, batch.claim_id) == claim.Lease(True, frozenset({second}))


def test_renew_of_a_lost_claim(engine: Engine, tenant_id: UUID) -> None:
    """A worker whose lease was taken is told so, also when its jobs run elsewhere by now."""
    submit_jobs(engine, tenant_id, 1)
    batch = take_some(engine)
    expire(engine, batch.claim_id)
    assert recover.recover_claim(engine)
    assert not claim.renew(engine, batch.claim_id).held
    heir = take_some(engine)
    assert not claim.renew(engine, batch.claim_id).held
    assert claim.renew(engine, heir.claim_id).held
    assert not claim.renew(engine, uuid4()).held


def test_a_lease_that_is_being_taken(engine: Engine, tenant_id: UUID) -> None:
    """A heartbeat during a sweeper's recovery does not wait for it; the next one learns of it."""
    submit_jobs(engine, tenant_id, 1)
    batch = take_some(engine)
    expire(engine, batch.claim_id)
    answers: list[claim.Lease] = []

    def beat(_: Connection) -> None:
        answers.append(claim.renew(engine, batch.claim_id))

    with at_commit(engine, beat):
        assert recover.recover_claim(engine)
    assert answers == [claim.Lease(held=True, cancelled=frozenset())]
    assert not claim.renew(engine, batch.claim_id).held
    check_books(engine)


def test_a_lease_that_is_being_renewed(engine: Engine, tenant_id: UUID) -> None:
    """While a heartbeat is not committed yet, a sweeper does not take the lease nor waits."""
    submit_jobs(engine, tenant_id, 1)
    batch = take_some(engine)
    expire(engine, batch.claim_id)
    taken: list[Recovered | None] = []

    def look(_: Connection) -> None:
        taken.append(recover.recover_claim(engine))

    with at_commit(engine, look):
        assert claim.renew(engine, batch.claim_id).held
    assert taken == [None]
    assert statuses(engine) == [JobStatus.RUNNING]


def test_promote_takes_what_is_due(engine: Engine, tenant_id: UUID) -> None:
    """Waiting jobs are queued when their time has come, not before."""
    campaign_id = submit_campaign(engine, tenant_id, 3)
    batch = take_some(engine)
    finish_all(engine, batch, lambda job_id: broken(job_id, retry=True))
    due, *others = ids(batch)
    execute(engine, "UPDATE jobs SET available_at = clock_timestamp() + interval '1 hour'")
    assert recover.promote(engine) == 0
    execute(
        engine,
        "UPDATE jobs SET available_at = clock_timestamp() - interval '1 hour' WHERE id = :id",
        id=due,
    )
    assert recover.promote(engine) == 1
    assert statuses(engine, due) == [JobStatus.QUEUED]
    assert statuses(engine, *others) == [JobStatus.WAITING] * 2
    assert counts(engine, campaign_id) == {JobStatus.QUEUED: 1, JobStatus.WAITING: 2}
    check_books(engine)


def test_promote_in_portions(
    engine: Engine, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are due, one call takes a portion, the longest due first, and says how many."""
    monkeypatch.setattr(recover, "PROMOTED_AT_ONCE", 2)
    submit_campaign(engine, tenant_id, 5)
    batch = take_some(engine)
    finish_all(engine, batch, lambda job_id: broken(job_id, retry=True))
    let_wait_end(engine)
    longest = ids(batch)[-1]
    execute(
        engine,
        "UPDATE jobs SET available_at = clock_timestamp() - interval '1 hour' WHERE id = :id",
        id=longest,
    )
    promoted = [recover.promote(engine)]
    assert statuses(engine, longest) == [JobStatus.QUEUED]
    promoted += [recover.promote(engine) for _ in range(3)]
    assert promoted == [2, 2, 1, 0]
    check_books(engine)


def test_sweepers_at_once_promote_a_job_once(engine: Engine, tenant_id: UUID) -> None:
    """However many sweepers promote, each job is queued and counted once."""
    for _ in range(10):
        submit_campaign(engine, tenant_id, 10)
        while batch := take(engine):
            finish_all(engine, batch, lambda job_id: broken(job_id, retry=True))
        execute(engine, "UPDATE jobs SET attempts = 0")
        let_wait_end(engine)
        waiting = value(engine, "SELECT count(*) FROM jobs WHERE status = 'waiting'")
        assert sum(together(*[lambda: recover.promote(engine)] * 4)) == waiting
        check_books(engine)


def test_a_promotion_does_not_wait_for_another(engine: Engine, tenant_id: UUID) -> None:
    """What one sweeper is promoting, but has not committed yet, another passes by."""
    submit_jobs(engine, tenant_id, 3)
    finish_all(engine, take_some(engine), lambda job_id: broken(job_id, retry=True))
    let_wait_end(engine)
    others: list[int] = []
    with at_commit(engine, lambda _: others.append(recover.promote(engine))):
        assert recover.promote(engine) == 3
    assert others == [0]


def test_a_released_job_stays_solo(engine: Engine, tenant_id: UUID) -> None:
    """That a job's lease expired is not forgotten when it is given back."""
    submit_jobs(engine, tenant_id, 1)
    expire(engine, take_some(engine).claim_id)
    assert recover.recover_claim(engine)
    release_all(engine, take_some(engine))
    assert rows(engine, "SELECT solo FROM jobs")[0].solo


def test_a_question_that_has_hung_takes_no_lease(
    engine: Engine, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the database has stood still, so have renewals: it is for the next pass to take it."""
    submit_jobs(engine, tenant_id, 1)
    batch = take_some(engine)
    expire(engine, batch.claim_id)
    monkeypatch.setattr(recover, "HUNG_S", -1)  # any answer took longer than that
    assert recover.recover_claim(engine) is None
    assert statuses(engine) == [JobStatus.RUNNING]
    monkeypatch.undo()
    assert recover.recover_claim(engine) == Recovered(batch.claim_id, "tester", 1)
