"""Jobs that need one another: they start in order, and end and come back together."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, Engine

from jobs.maintenance.waiting import promote_waiting
from jobs.services import Services
from storage import counters, retention, tenants, views
from storage.ledger import cancel, finish, needs, new_needs, recover, submit, windows
from storage.ledger.cancel import RETRY_ATTEMPTS, WrongStateError
from storage.ledger.finish import Failed, Outcome
from storage.ledger.needs import NeedArtifact
from storage.ledger.new_needs import NeedError, TooDeepError
from storage.ledger.submit import NewCampaign, NewWindow
from storage.lifecycle import JobStatus
from storage.retention import Age
from tests.integration.ledger_cases import (
    LIMIT_S,
    at_commit,
    at_statement,
    broken,
    campaign_jobs,
    check_books,
    connection_of,
    counts,
    execute,
    expire,
    fan_out,
    finish_all,
    ids,
    job_row,
    made,
    new_creative,
    new_job,
    no_errors,
    recipient_rows,
    release_all,
    rows,
    statuses,
    take,
    take_some,
    together,
    value,
    wait_until_blocked,
)

SUCCEEDED, FAILED, CANCELLED = JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED
WAITING, QUEUED, RUNNING = JobStatus.WAITING, JobStatus.QUEUED, JobStatus.RUNNING
EXPIRED = JobStatus.EXPIRED

HOUR = timedelta(hours=1)

T = TypeVar("T")


def add(engine: Engine, tenant_id: UUID, *needed: UUID, **changes: Any) -> UUID:
    """A single job that needs those."""
    return submit.submit_job(engine, new_job(tenant_id, needs=needed, **changes))


def chain(engine: Engine, tenant_id: UUID, length: int) -> list[UUID]:
    """Jobs of which each needs the one before."""
    found: list[UUID] = []
    for _ in range(length):
        found.append(add(engine, tenant_id, *found[-1:]))
    return found


def bundle(
    engine: Engine, tenant_id: UUID, recipients: int = 1, window: NewWindow | None = None
) -> UUID:
    """A campaign with its jobs: a clip of a picture and of a voice that reads a headline."""
    creatives = [
        new_creative("clip", "d", "picture", "voice"),
        new_creative("picture", "a"),
        new_creative("headline", "b"),
        new_creative("voice", "c", "headline"),
    ]
    campaign = NewCampaign(tenant_id, "Bundle", creatives, window=window)
    campaign_id = submit.submit_campaign(engine, campaign, recipient_rows(recipients))
    fan_out(engine)
    return campaign_id


def by_creative(engine: Engine, campaign_id: UUID) -> dict[str, UUID]:
    """The jobs of a campaign with one recipient, by the creative's name."""
    found = rows(
        engine,
        "SELECT creatives.name, jobs.id FROM jobs JOIN creatives ON creatives.id = creative_id"
        " WHERE jobs.campaign_id = :id ORDER BY jobs.id",
        id=campaign_id,
    )
    return {row.name: row.id for row in found}


def run(engine: Engine, how: Callable[[UUID], Outcome] = made, **options: Any) -> list[UUID]:
    """Claim a batch and let all of it end in one way."""
    batch = take_some(engine, **options)
    finish_all(engine, batch, how)
    return ids(batch)


def hopeless(job_id: UUID) -> Outcome:
    """It will never work."""
    return broken(job_id, retry=False)


def error(engine: Engine, job_id: UUID) -> tuple[str, str] | None:
    """What is said about how a job ended."""
    found = job_row(engine, job_id).error
    return found and (found["code"], found["message"])


def test_a_chain_runs_in_order(engine: Engine, tenant_id: UUID) -> None:
    """Each job waits until the one before has succeeded, and is then there for any worker."""
    chained = chain(engine, tenant_id, 3)
    job = job_row(engine, chained[1])
    assert (job.status, job.wait_reason) == ("waiting", "need")
    assert recover.promote(engine) == 0
    for number in range(3):
        check_books(engine)
        assert run(engine) == [chained[number]]
    assert statuses(engine, *chained) == [SUCCEEDED] * 3
    assert take(engine) is None


def test_a_job_whose_needs_are_there_is_queued(engine: Engine, tenant_id: UUID) -> None:
    """What is submitted after its needs have succeeded waits for nothing."""
    first = add(engine, tenant_id)
    run(engine)
    second = add(engine, tenant_id, first)
    assert statuses(engine, second) == [QUEUED]
    with engine.begin() as connection:
        view = views.job(connection, tenant_id, second)
    assert view is not None
    assert view.needs == (first,)


def test_a_retried_attempt_keeps_them_waiting(engine: Engine, tenant_id: UUID) -> None:
    """A need that is released, or that backs off, has not ended."""
    first, second = chain(engine, tenant_id, 2)
    release_all(engine, take_some(engine))
    run(engine, lambda job_id: broken(job_id, retry=True))
    assert statuses(engine, first, second) == [WAITING, WAITING]
    execute(engine, "UPDATE jobs SET available_at = '2020-01-01' WHERE id = :id", id=first)
    assert recover.promote(engine) == 1
    run(engine)
    assert statuses(engine, first, second) == [SUCCEEDED, QUEUED]


def test_needs_that_there_are_not(engine: Engine, tenant_id: UUID) -> None:
    """A job that could never run is refused: its need is nobody's, another's, or ended badly."""
    with engine.begin() as connection:
        other = add(engine, tenants.ensure(connection, "other"))
    execute(engine, "UPDATE jobs SET priority = 1")
    bad = add(engine, tenant_id)
    run(engine, hopeless, size=1)
    for need, status in ((uuid4(), None), (other, None), (bad, FAILED)):
        with pytest.raises(NeedError) as caught:
            add(engine, tenant_id, need)
        assert (caught.value.need_id, caught.value.status) == (need, status)
    assert value(engine, "SELECT count(*) FROM job_needs") == 0
    assert value(engine, "SELECT count(*) FROM jobs") == 2


def test_too_many_in_a_row(
    engine: Engine, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only so many unfinished jobs may stand in a row; those that have succeeded do not count."""
    monkeypatch.setattr(new_needs, "MAX_DEPTH", 3)
    chained = chain(engine, tenant_id, 3)
    with pytest.raises(TooDeepError):
        add(engine, tenant_id, chained[0], chained[2])
    run(engine)
    add(engine, tenant_id, chained[0], chained[2])


def test_the_same_request_again(engine: Engine, tenant_id: UUID) -> None:
    """Under its idempotency key it gives the first job, whatever has become of its needs."""
    first = add(engine, tenant_id)
    second = add(engine, tenant_id, first, idempotency_key="k")
    run(engine, hopeless)
    assert add(engine, tenant_id, first, idempotency_key="k") == second


def test_ids_are_above_those_of_needs(engine: Engine, tenant_id: UUID) -> None:
    """Also when the database's clock was set back since the need came."""
    first = add(engine, tenant_id)
    ahead = value(engine, "SELECT uuidv7(interval '1 hour')")
    execute(engine, "UPDATE jobs SET id = :ahead WHERE id = :id", ahead=ahead, id=first)
    assert add(engine, tenant_id, ahead) > ahead


def test_a_failure_goes_all_the_way(engine: Engine, tenant_id: UUID) -> None:
    """What needs a failed job fails with it, and each says because of what."""
    first, second, third = chain(engine, tenant_id, 3)
    other = add(engine, tenant_id, batch_key="z", priority=1)
    both = add(engine, tenant_id, other, second)
    run(engine, hopeless)
    assert statuses(engine, first, second, third, both) == [FAILED] * 4
    assert statuses(engine, other) == [QUEUED]
    because = f"needs job {first}, which failed: broken: it broke"
    assert error(engine, second) == ("need_failed", because)
    because = f"needs job {second}, which failed: need_failed: {because}"
    assert error(engine, third) == error(engine, both) == ("need_failed", because)
    check_books(engine)


@pytest.mark.parametrize("running", [False, True])
def test_a_cancel_goes_all_the_way(engine: Engine, tenant_id: UUID, *, running: bool) -> None:
    """What needs a cancelled job is cancelled as well, as soon as that one is."""
    first, second, third = chain(engine, tenant_id, 3)
    batch = take_some(engine) if running else None
    cancel.cancel_job(engine, tenant_id, first)
    if batch:
        assert statuses(engine, second, third) == [WAITING, WAITING]
        finish_all(engine, batch)
    assert statuses(engine, first, second, third) == [CANCELLED] * 3
    assert error(engine, first) is None
    because = f"needs job {first}, which was cancelled"
    assert error(engine, second) == ("need_cancelled", because)
    check_books(engine)


def test_cancelling_what_waits(engine: Engine, tenant_id: UUID) -> None:
    """A job that waits for a need is cancelled at once, and its need goes on without it."""
    first, second, third = chain(engine, tenant_id, 3)
    cancel.cancel_job(engine, tenant_id, second)
    assert statuses(engine, first, second, third) == [QUEUED, CANCELLED, CANCELLED]
    run(engine)
    assert statuses(engine, first, second, third) == [SUCCEEDED, CANCELLED, CANCELLED]


def test_a_retry_revives_what_followed(engine: Engine, tenant_id: UUID) -> None:
    """A failed need that is tried again takes along what failed with it, and no other job."""
    first, second, third = chain(engine, tenant_id, 3)
    unwanted = add(engine, tenant_id, second)
    cancel.cancel_job(engine, tenant_id, unwanted)
    run(engine, hopeless)
    assert cancel.retry_job(engine, tenant_id, first) == "default"
    assert statuses(engine, first, second, third, unwanted) == [QUEUED, WAITING, WAITING, CANCELLED]
    job = job_row(engine, third)
    assert (job.wait_reason, job.error, job.max_attempts) == ("need", None, RETRY_ATTEMPTS)
    check_books(engine)
    assert [*run(engine), *run(engine), *run(engine)] == [first, second, third]


def test_a_retry_with_another_need_that_failed(engine: Engine, tenant_id: UUID) -> None:
    """It revives only what can still succeed; the rest comes with the last need."""
    left, right = add(engine, tenant_id), add(engine, tenant_id)
    both = add(engine, tenant_id, left, right)
    run(engine, hopeless)
    cancel.retry_job(engine, tenant_id, left)
    assert statuses(engine, left, right, both) == [QUEUED, FAILED, FAILED]
    cancel.retry_job(engine, tenant_id, right)
    assert statuses(engine, left, right, both) == [QUEUED, QUEUED, WAITING]
    run(engine)
    assert statuses(engine, both) == [QUEUED]


def test_a_retry_without_its_needs(engine: Engine, tenant_id: UUID) -> None:
    """A job alone is not tried again before what it needs, and is told what that is."""
    first, second = chain(engine, tenant_id, 2)
    run(engine, hopeless)
    with pytest.raises(WrongStateError) as caught:
        cancel.retry_job(engine, tenant_id, second)
    assert caught.value.status == (
        f"in need of job {first}, which is failed: retry that one, and this one follows"
    )
    assert statuses(engine, first, second) == [FAILED, FAILED]


def test_the_last_lease_of_a_need(engine: Engine, tenant_id: UUID) -> None:
    """A need whose worker vanished comes back, and at its last attempt takes the others along."""
    first, second = chain(engine, tenant_id, 2)
    for status in ((QUEUED, WAITING), (QUEUED, WAITING), (FAILED, FAILED)):
        expire(engine, take_some(engine).claim_id)
        assert recover.recover_claim(engine)
        assert statuses(engine, first, second) == list(status)
    assert "lease_expired" in job_row(engine, second).error["message"]
    check_books(engine)


def test_what_needs_have_made(engine: Engine, tenant_id: UUID) -> None:
    """The outputs of each need by its name, in their order; jobs without needs are left out."""
    campaign_id = bundle(engine, tenant_id)
    jobs = by_creative(engine, campaign_id)
    alone = add(engine, tenant_id, jobs["headline"], priority=1)
    for _ in range(3):
        run(engine, lambda job_id: made(job_id, outputs=2))

    def outputs(name: str) -> list[NeedArtifact]:
        keys = [f"x/{jobs[name]}-{index}" for index in range(2)]
        return [NeedArtifact(key, "image/png", "0" * 64) for key in keys]

    assert needs.artifacts(engine, [*jobs.values(), alone]) == {
        jobs["clip"]: {"picture": outputs("picture"), "voice": outputs("voice")},
        jobs["voice"]: {"headline": outputs("headline")},
        alone: {str(jobs["headline"]): outputs("headline")},
    }


def test_a_bundle(engine: Engine, tenant_id: UUID) -> None:
    """Of one recipient the voice waits for the headline, and the clip for picture and voice."""
    campaign_id = bundle(engine, tenant_id)
    jobs = by_creative(engine, campaign_id)
    assert list(jobs) == ["picture", "headline", "voice", "clip"], "needs first"
    assert counts(engine, campaign_id) == {QUEUED: 2, WAITING: 2}
    seen = []
    while batch := take(engine):
        seen.append(ids(batch)[0])
        finish_all(engine, batch)
        check_books(engine)
    assert seen[-1] == jobs["clip"]
    assert seen.index(jobs["headline"]) < seen.index(jobs["voice"])
    assert counts(engine, campaign_id) == {SUCCEEDED: 4}


def test_a_bundle_that_fails(engine: Engine, tenant_id: UUID) -> None:
    """A failed headline takes voice and clip along, can be mended, and the counters are right."""
    campaign_id = bundle(engine, tenant_id)
    jobs = by_creative(engine, campaign_id)
    run(engine, hopeless, prefer="b")
    because = f"needs headline (job {jobs['headline']}), which failed: broken: it broke"
    assert error(engine, jobs["voice"]) == ("need_failed", because)
    assert counts(engine, campaign_id) == {QUEUED: 1, FAILED: 3}
    cancel.retry_job(engine, tenant_id, jobs["headline"])
    assert counts(engine, campaign_id) == {QUEUED: 2, WAITING: 2}
    while batch := take(engine):
        finish_all(engine, batch)
    assert counts(engine, campaign_id) == {SUCCEEDED: 4}
    assert counters.reconcile(engine, campaign_id) == {}


def test_many_recipients(engine: Engine, tenant_id: UUID) -> None:
    """Two thousand recipients' bundles come in one transaction, each tied to its own jobs alone."""
    campaign_id = bundle(engine, tenant_id, 2000)
    assert counts(engine, campaign_id) == {QUEUED: 4000, WAITING: 4000}
    across = """
        SELECT count(*), count(*) FILTER (WHERE job.recipient_id = need.recipient_id
                                            AND creatives.name = job_needs.name)
        FROM job_needs JOIN jobs AS job ON job.id = job_id JOIN jobs AS need ON need.id = need_id
        JOIN creatives ON creatives.id = need.creative_id
        """
    assert [tuple(row) for row in rows(engine, across)] == [(6000, 6000)]


def test_a_cancelled_campaign(engine: Engine, tenant_id: UUID) -> None:
    """All of it is cancelled, what waits as well, and so is a single job that needed some of it."""
    campaign_id = bundle(engine, tenant_id, 2)
    outside = add(engine, tenant_id, campaign_jobs(engine, campaign_id)[-1])
    cancel.cancel_campaign(engine, tenant_id, campaign_id)
    while cancel.cancel_flagged(engine):
        pass
    assert counts(engine, campaign_id) == {CANCELLED: 8}
    assert statuses(engine, outside) == [CANCELLED]
    check_books(engine)


def test_a_claim_that_meets_a_cancelled_need(engine: Engine, tenant_id: UUID) -> None:
    """What a claim cancels on its way takes along what needs it."""
    campaign_id = bundle(engine, tenant_id)
    outside = add(engine, tenant_id, by_creative(engine, campaign_id)["picture"])
    cancel.cancel_campaign(engine, tenant_id, campaign_id)
    assert take(engine) is None
    assert statuses(engine, outside) == [CANCELLED]
    assert counts(engine, campaign_id) == {CANCELLED: 4}


def window(*, wait: bool) -> NewWindow:
    """A run window that is open and ends without another one, or with one tomorrow."""
    now = datetime.now(UTC)
    return NewWindow(now + HOUR, now + 10 * HOUR if wait else None, {})


def close(engine: Engine) -> None:
    """Let every window have ended."""
    execute(engine, "UPDATE campaigns SET closes_at = clock_timestamp()")


def test_a_need_that_succeeds_out_of_the_window(engine: Engine, tenant_id: UUID) -> None:
    """What ran when the window ended may finish; what needs it waits for the next window."""
    campaign_id = bundle(engine, tenant_id, window=window(wait=True))
    jobs = by_creative(engine, campaign_id)
    batch = take_some(engine, prefer="b")
    close(engine)
    finish_all(engine, batch)
    voice = job_row(engine, jobs["voice"])
    assert (voice.status, voice.wait_reason) == ("waiting", "window")
    assert voice.available_at == value(engine, "SELECT reopens_at FROM campaigns")
    assert job_row(engine, jobs["clip"]).wait_reason == "need"
    check_books(engine)


def test_a_window_that_does_not_come_again(engine: Engine, tenant_id: UUID) -> None:
    """What waits for a need expires with the rest, and what needs that from outside fails."""
    campaign_id = bundle(engine, tenant_id, window=window(wait=False))
    outside = add(engine, tenant_id, by_creative(engine, campaign_id)["clip"])
    close(engine)
    assert windows.hold(engine, campaign_id)
    assert counts(engine, campaign_id) == {EXPIRED: 4}
    code, message = error(engine, outside) or ("", "")
    assert code == "need_failed"
    assert message.endswith("which expired")
    check_books(engine)


@contextmanager
def meanwhile(engine: Engine, act: Callable[[], T]) -> Iterator[list[T]]:
    """At the next COMMIT, start ``act`` and go on once it waits for that; then see it through."""
    results: list[T] = []
    with ThreadPoolExecutor(1) as threads:
        started: list[Future[T]] = []

        def start(connection: Connection) -> None:
            started.append(threads.submit(act))
            wait_until_blocked(engine, connection_of(connection).info.backend_pid)

        with no_errors(engine), at_commit(engine, start):
            yield results
            results.append(started[0].result(LIMIT_S))


ENDS: Sequence[tuple[Callable[[UUID], Outcome], Callable[[UUID], Outcome], JobStatus]] = (
    (made, made, QUEUED),
    (made, hopeless, FAILED),
    (hopeless, made, FAILED),
    (hopeless, hopeless, FAILED),
)


@pytest.mark.parametrize(("first", "second", "end"), ENDS)
def test_two_needs_end_at_the_same_moment(
    engine: Engine,
    tenant_id: UUID,
    first: Callable[[UUID], Outcome],
    second: Callable[[UUID], Outcome],
    end: JobStatus,
) -> None:
    """The second finish waits for the first one's commit, and then sees what came of both."""
    left, right = add(engine, tenant_id), add(engine, tenant_id)
    both = add(engine, tenant_id, left, right)
    after = add(engine, tenant_id, both)
    batches = take_some(engine, 1), take_some(engine, 1)
    with meanwhile(engine, lambda: finish_all(engine, batches[1], second)):
        finish_all(engine, batches[0], first)
    assert statuses(engine, both, after) == [end, WAITING if end is QUEUED else FAILED]
    check_books(engine)


def test_many_finishes_at_once(engine: Engine, tenant_id: UUID) -> None:
    """Where workers finish needs of the same jobs at once, none is missed and nobody is stuck."""
    needed = [add(engine, tenant_id) for _ in range(16)]
    several = [add(engine, tenant_id, *needed[number:]) for number in range(16)]
    last = add(engine, tenant_id, *several)
    batches = [take_some(engine, 1) for _ in needed]
    with no_errors(engine):
        together(*[lambda batch=batch: finish_all(engine, batch) for batch in batches])
    assert statuses(engine, *several) == [QUEUED] * 16
    assert statuses(engine, last) == [WAITING]
    check_books(engine)


def test_a_need_ends_while_a_job_comes(engine: Engine, tenant_id: UUID) -> None:
    """A finish waits for the commit of a job that is just being submitted, and then sees it."""
    need = add(engine, tenant_id)
    batch = take_some(engine)
    with meanwhile(engine, lambda: finish_all(engine, batch)):
        job_id = add(engine, tenant_id, need)
    assert statuses(engine, job_id) == [QUEUED]
    check_books(engine)


@pytest.mark.parametrize(("how", "status"), [(made, QUEUED), (hopeless, None)])
def test_a_job_comes_while_its_need_ends(
    engine: Engine,
    tenant_id: UUID,
    how: Callable[[UUID], Outcome],
    status: JobStatus | None,
) -> None:
    """A submission waits for a finish that is under way, holding nothing, and goes by its end."""
    need, other = add(engine, tenant_id), add(engine, tenant_id, priority=1)
    batch = take_some(engine, 1)

    def come() -> UUID | JobStatus | None:
        try:
            return add(engine, tenant_id, need, other)
        except NeedError as refused:
            return refused.status

    with meanwhile(engine, come) as answers:
        finish_all(engine, batch, how)
    [answer] = answers
    if status is None:
        assert answer is FAILED
        return
    assert isinstance(answer, UUID)
    assert statuses(engine, answer) == [WAITING]
    run(engine)
    assert statuses(engine, answer) == [status]


def test_a_retry_while_another_need_fails(engine: Engine, tenant_id: UUID) -> None:
    """Whichever commits first, nothing is left to wait for a need that has failed."""
    left, right = add(engine, tenant_id), add(engine, tenant_id)
    both = add(engine, tenant_id, left, right)
    run(engine, hopeless, size=1)
    batch = take_some(engine)
    with meanwhile(engine, lambda: finish_all(engine, batch, hopeless)):
        cancel.retry_job(engine, tenant_id, left)
    assert statuses(engine, left, right, both) == [QUEUED, FAILED, FAILED]
    check_books(engine)


def test_what_was_missed_is_found(services: Services, tenant_id: UUID) -> None:
    """Needs that a worker of an older release has ended, following nothing, are noticed."""
    engine = services.engine
    good, bad = add(engine, tenant_id), add(engine, tenant_id)
    wants_good, wants_bad = add(engine, tenant_id, good), add(engine, tenant_id, bad)
    after = add(engine, tenant_id, wants_bad)
    waits = add(engine, tenant_id, wants_good)
    execute(
        engine,
        "UPDATE jobs SET finished_at = clock_timestamp(),"
        " status = CASE id WHEN :good THEN 'succeeded' ELSE 'failed' END"
        " WHERE id IN (:good, :bad)",
        good=good,
        bad=bad,
    )
    promote_waiting(engine, services.wake_ups)
    assert statuses(engine, wants_good, wants_bad, after) == [QUEUED, FAILED, FAILED]
    assert statuses(engine, waits) == [WAITING]
    assert services.wake_ups.waiting("default")
    assert needs.settle_missed(engine) == 0


def test_a_bulk_cancel_waits_for_nobody(engine: Engine, tenant_id: UUID) -> None:
    """What somebody else holds is left out, and found later."""
    campaign_id = bundle(engine, tenant_id)
    outside = add(engine, tenant_id, by_creative(engine, campaign_id)["picture"])
    cancel.cancel_campaign(engine, tenant_id, campaign_id)

    def hold_it(_: Connection) -> None:
        cancel.cancel_flagged(engine)

    with at_commit(engine, hold_it), engine.begin() as connection:
        connection.exec_driver_sql(f"SELECT FROM jobs WHERE id = '{outside}' FOR UPDATE")
    assert statuses(engine, outside) == [WAITING]
    assert needs.settle_missed(engine) == 1
    assert statuses(engine, outside) == [CANCELLED]


def test_a_crash_follows_nothing(engine: Engine, tenant_id: UUID) -> None:
    """A finish whose COMMIT was lost has moved nothing; the same finish again moves all."""
    first, second = chain(engine, tenant_id, 2)
    batch = take_some(engine)

    def fail(_: Connection) -> None:
        raise RuntimeError("died")

    with pytest.raises(RuntimeError), at_statement(engine, "DISTINCT ON", fail):
        finish_all(engine, batch)
    assert statuses(engine, first, second) == [RUNNING, WAITING]
    assert finish.finish(engine, batch.claim_id, [made(first)]) == {first: SUCCEEDED}
    assert statuses(engine, first, second) == [SUCCEEDED, QUEUED]


def test_a_need_is_kept(services: Services, tenant_id: UUID) -> None:
    """A purge leaves what an unfinished job starts from; once that has ended, both go."""
    engine = services.engine
    first = add(engine, tenant_id)
    run(engine)
    second = add(engine, tenant_id, first, priority=1)
    age(engine)
    purge(services)
    assert statuses(engine) == [SUCCEEDED, QUEUED]
    run(engine)
    age(engine)
    purge(services)
    assert rows(engine, "SELECT FROM jobs UNION ALL SELECT FROM job_needs") == []
    assert second != first


def test_a_need_that_is_gone(services: Services, tenant_id: UUID) -> None:
    """A failed job whose need was purged cannot be tried again, and says why."""
    engine = services.engine
    first = add(engine, tenant_id)
    run(engine)
    second = add(engine, tenant_id, first)
    run(engine, hopeless)
    age(engine, first)
    purge(services)
    with pytest.raises(WrongStateError) as caught:
        cancel.retry_job(engine, tenant_id, second)
    assert caught.value.status == f"in need of job {first}, which is deleted"


def age(engine: Engine, *job_ids: UUID) -> None:
    """Let those jobs, or all that have ended, have ended long ago, and others not yet for long."""
    execute(
        engine,
        "UPDATE jobs SET finished_at = CASE WHEN id = ANY(:ids) OR :all THEN '2020-01-01'"
        " ELSE clock_timestamp() + interval '1 hour' END WHERE finished_at IS NOT NULL",
        ids=list(job_ids),
        all=not job_ids,
    )


def purge(services: Services) -> None:
    """Delete what is old; ids say that these jobs are new, so of an age of a moment."""
    for _ in retention.purge(services.engine, services.objects, Age(0.001)):
        pass


def test_failures_say_what_they_can(engine: Engine, tenant_id: UUID) -> None:
    """The reason is cut where it would grow from job to job without end."""
    first, second = chain(engine, tenant_id, 2)
    run(engine, lambda job_id: Failed(job_id, "broken", "long " * 1000, retry=False))
    _, message = error(engine, second) or ("", "")
    assert message.startswith(f"needs job {first}, which failed: broken: long long")
    assert len(message) == needs.MESSAGE_CHARS
