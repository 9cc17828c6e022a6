"""How work ends: recorded once, by its holder only, whatever happens to the connection."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, Engine, text

from storage import counters
from storage.ledger import cancel, claim, finish, recover
from storage.ledger.claim import Batch
from storage.ledger.finish import (
    BACKOFF_FIRST_S,
    BACKOFF_MOST_S,
    Failed,
    Outcome,
    Released,
    backoff_s,
)
from storage.lifecycle import JobStatus
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
    finish_all,
    ids,
    job_row,
    let_wait_end,
    lose_commit,
    lose_commit_answer,
    made,
    no_errors,
    release_all,
    rows,
    statuses,
    submit_campaign,
    submit_jobs,
    take,
    take_some,
    terminate,
    together,
    trained,
    value,
    wait_until_blocked,
)

SUCCEEDED, FAILED, CANCELLED = JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED
WAITING, QUEUED, RUNNING = JobStatus.WAITING, JobStatus.QUEUED, JobStatus.RUNNING

retryable = partial(broken, retry=True)
hopeless = partial(broken, retry=False)


def ledger(engine: Engine) -> list[Any]:
    """All that a finish may change, to compare."""
    queries = (
        "SELECT * FROM jobs ORDER BY id",
        "SELECT * FROM artifacts ORDER BY id",
        "SELECT * FROM claims ORDER BY id",
        "SELECT * FROM campaign_counters ORDER BY campaign_id, status, slot",
    )
    return [tuple(row) for query in queries for row in rows(engine, query)]


def recover_all(engine: Engine) -> None:
    """Take every expired lease."""
    while recover.recover_claim(engine):
        pass


def test_succeeded(engine: Engine, tenant_id: UUID) -> None:
    """A success is final, and its outputs are on record with who made them."""
    campaign_id = submit_campaign(engine, tenant_id, 1)
    batch = take_some(engine)
    [job_id] = ids(batch)
    outcome = made(job_id, outputs=2)
    assert finish.finish(engine, batch.claim_id, [outcome]) == {job_id: SUCCEEDED}
    found = rows(engine, "SELECT * FROM artifacts ORDER BY index")
    assert value(engine, "SELECT array_agg(index ORDER BY index) FROM artifacts") == [0, 1]
    for row, artifact in zip(found, outcome.artifacts, strict=True):
        assert {name: getattr(row, name) for name in vars(artifact)} == vars(artifact)
        assert (row.tenant_id, row.campaign_id, row.job_id) == (tenant_id, campaign_id, job_id)
        assert (row.claim_id, row.attempt) == (batch.claim_id, 1)
    assert job_row(engine, job_id).error is None
    assert counts(engine, campaign_id) == {SUCCEEDED: 1}
    check_books(engine)


def test_failed_for_now(engine: Engine, tenant_id: UUID) -> None:
    """A failure that may pass waits for its time, and is queued by `promote` when it has come."""
    campaign_id = submit_campaign(engine, tenant_id, 1)
    batch = take_some(engine)
    [job_id] = ids(batch)
    assert finish_all(engine, batch, retryable) == {job_id: WAITING}
    job = job_row(engine, job_id)
    assert (job.wait_reason, job.attempts, job.claim_id) == ("backoff", 1, None)
    assert job.error == {"code": "broken", "message": "it broke"}
    wait_s = value(engine, "SELECT extract(epoch FROM available_at - clock_timestamp()) FROM jobs")
    assert 0 < wait_s <= BACKOFF_FIRST_S
    assert counts(engine, campaign_id) == {WAITING: 1}
    assert take(engine) is None

    let_wait_end(engine)
    assert take(engine) is None, "a claim does not look at times"
    assert recover.promote(engine) == 1
    assert counts(engine, campaign_id) == {QUEUED: 1}
    job = job_row(engine, job_id)
    assert (job.wait_reason, job.available_at) == (None, None)
    assert take_some(engine).jobs[0].attempt == 2
    check_books(engine)


def test_the_error_of_an_earlier_attempt_is_gone(engine: Engine, tenant_id: UUID) -> None:
    """A job that succeeds in the end shows no error."""
    [job_id] = submit_jobs(engine, tenant_id, 1)
    finish_all(engine, take_some(engine), retryable)
    let_wait_end(engine)
    recover.promote(engine)
    finish_all(engine, take_some(engine))
    assert job_row(engine, job_id).error is None


def test_failed_on_the_last_attempt(engine: Engine, tenant_id: UUID) -> None:
    """A job that may fail three times has failed for good after the third."""
    campaign_id = submit_campaign(engine, tenant_id, 1)
    [job_id] = campaign_jobs(engine, campaign_id)
    for expected in (WAITING, WAITING, FAILED):
        assert finish_all(engine, take_some(engine), retryable) == {job_id: expected}
        let_wait_end(engine)
        recover.promote(engine)
    job = job_row(engine, job_id)
    assert (job.attempts, job.error["code"], job.wait_reason) == (3, "broken", None)
    assert counts(engine, campaign_id) == {FAILED: 1}
    check_books(engine)


def test_failed_for_good(engine: Engine, tenant_id: UUID) -> None:
    """A failure that will not pass is final at the first attempt."""
    campaign_id = submit_campaign(engine, tenant_id, 1)
    batch = take_some(engine)
    [job_id] = ids(batch)
    assert finish_all(engine, batch, hopeless) == {job_id: FAILED}
    assert job_row(engine, job_id).error == {"code": "broken", "message": "it broke"}
    assert counts(engine, campaign_id) == {FAILED: 1}
    check_books(engine)


def test_an_error_that_cannot_be_stored(engine: Engine, tenant_id: UUID) -> None:
    """Whatever an error's text holds, it is recorded as well as can be, and so are the mates."""
    submit_jobs(engine, tenant_id, 2)
    batch = take_some(engine)
    failed, mate = ids(batch)
    error = Failed(failed, "broken", "NUL \0, half \ud83c, \\u0000, 杯", retry=False)
    finished = finish.finish(engine, batch.claim_id, [error, made(mate)])
    assert finished == {failed: FAILED, mate: SUCCEEDED}
    assert job_row(engine, failed).error["message"] == "NUL \ufffd, half ?, \\u0000, 杯"


def test_released(engine: Engine, tenant_id: UUID) -> None:
    """A job that is given back is queued as if it had never been claimed."""
    campaign_id = submit_campaign(engine, tenant_id, 1)
    [job_id] = campaign_jobs(engine, campaign_id)
    before = job_row(engine, job_id)
    assert release_all(engine, take_some(engine)) == {job_id: QUEUED}
    assert job_row(engine, job_id) == before
    assert counts(engine, campaign_id) == {QUEUED: 1}
    assert take_some(engine).jobs[0].attempt == 1


@pytest.mark.parametrize("outcome", [made, retryable, hopeless, Released])
def test_cancel_wins(engine: Engine, tenant_id: UUID, outcome: Callable[[UUID], Outcome]) -> None:
    """A job that was cancelled before its finish is cancelled, and its outputs are not kept."""
    campaign_id = submit_campaign(engine, tenant_id, 2)
    batch = take_some(engine)
    flagged, other = ids(batch)
    assert cancel.cancel_job(engine, tenant_id, flagged) is RUNNING
    finished = finish.finish(engine, batch.claim_id, [outcome(flagged), made(other)])
    assert finished == {flagged: CANCELLED, other: SUCCEEDED}
    assert job_row(engine, flagged).error is None
    assert [row.job_id for row in rows(engine, "SELECT job_id FROM artifacts")] == [other]
    assert counts(engine, campaign_id) == {CANCELLED: 1, SUCCEEDED: 1}
    check_books(engine)


def test_a_batch_may_end_in_parts(engine: Engine, tenant_id: UUID) -> None:
    """Jobs that are not named go on running, and the claim lives until the last one has ended."""
    campaign_id = submit_campaign(engine, tenant_id, 3)
    batch = take_some(engine)
    first, second, third = ids(batch)
    assert finish.finish(engine, batch.claim_id, [made(second)]) == {second: SUCCEEDED}
    assert statuses(engine, first, second, third) == [RUNNING, SUCCEEDED, RUNNING]
    assert claim.renew(engine, batch.claim_id).held
    assert counts(engine, campaign_id) == {SUCCEEDED: 1, RUNNING: 2}
    finish.finish(engine, batch.claim_id, [hopeless(third), Released(first)])
    assert statuses(engine, first, second, third) == [QUEUED, SUCCEEDED, FAILED]
    check_books(engine)


@pytest.mark.parametrize("outcome", [made, retryable, hopeless, Released])
def test_the_claim_ends_with_its_last_job(
    engine: Engine, tenant_id: UUID, outcome: Callable[[UUID], Outcome]
) -> None:
    """However its jobs end, no claim is left behind."""
    submit_jobs(engine, tenant_id, 2)
    batch = take_some(engine)
    finish_all(engine, batch, outcome)
    assert value(engine, "SELECT count(*) FROM claims") == 0
    assert not claim.renew(engine, batch.claim_id).held


def test_jobs_of_several_campaigns_in_one_batch(engine: Engine, tenant_id: UUID) -> None:
    """A batch that mixes campaigns and single jobs is counted for each campaign alone."""
    one = submit_campaign(engine, tenant_id, 2)
    two = submit_campaign(engine, tenant_id, 3)
    submit_jobs(engine, tenant_id, 1)
    finish_all(engine, take_some(engine))
    assert counts(engine, one) == {SUCCEEDED: 2}
    assert counts(engine, two) == {SUCCEEDED: 3}


def test_finishing_under_a_claim_that_never_was(engine: Engine, tenant_id: UUID) -> None:
    """Who guesses a claim's id changes nothing and learns nothing."""
    job_ids = submit_jobs(engine, tenant_id, 2)
    take_some(engine, 1)
    before = ledger(engine)
    assert finish.finish(engine, uuid4(), [made(job_id) for job_id in job_ids]) == {}
    assert ledger(engine) == before


@pytest.mark.parametrize("outcome", [made, retryable, hopeless, Released])
def test_a_finish_after_the_lease_was_taken(
    engine: Engine, tenant_id: UUID, outcome: Callable[[UUID], Outcome]
) -> None:
    """The finish of a worker that lost its lease changes nothing and reports nothing."""
    submit_campaign(engine, tenant_id, 2)
    zombie = take_some(engine)
    expire(engine, zombie.claim_id)
    recover_all(engine)
    before = ledger(engine)
    assert finish_all(engine, zombie, outcome) == {}
    assert ledger(engine) == before


@pytest.mark.parametrize("outcome", [made, retryable, hopeless, Released])
@pytest.mark.parametrize("other", [None, made, retryable, hopeless, Released])
def test_a_finish_after_another_had_the_job(
    engine: Engine,
    tenant_id: UUID,
    outcome: Callable[[UUID], Outcome],
    other: Callable[[UUID], Outcome] | None,
) -> None:
    """Once another worker has the job, or has ended it somehow, the first one's finish is void."""
    submit_campaign(engine, tenant_id, 1)
    zombie = take_some(engine)
    expire(engine, zombie.claim_id)
    recover_all(engine)
    heir = take_some(engine)
    assert ids(heir) == ids(zombie)
    if other:
        finish_all(engine, heir, other)
    before = ledger(engine)
    assert finish_all(engine, zombie, outcome) == {}
    assert ledger(engine) == before
    check_books(engine)


def test_a_finish_after_a_retry(engine: Engine, tenant_id: UUID) -> None:
    """A late second finish cannot touch the job that was asked for again."""
    [job_id] = submit_jobs(engine, tenant_id, 1)
    batch = take_some(engine)
    finish_all(engine, batch, hopeless)
    cancel.retry_job(engine, tenant_id, job_id)
    assert finish_all(engine, batch) == {}
    heir = take_some(engine)
    assert finish_all(engine, batch) == {}
    assert statuses(engine) == [RUNNING]
    assert finish_all(engine, heir) == {job_id: SUCCEEDED}
    check_books(engine)


def test_a_lost_job_does_not_keep_its_mates(engine: Engine, tenant_id: UUID) -> None:
    """Mates that are still the claim's own are recorded beside one that is another's by now."""
    campaign_id = submit_campaign(engine, tenant_id, 3)
    batch = take_some(engine)
    first, lost, last = ids(batch)
    execute(engine, "UPDATE jobs SET claim_id = :other WHERE id = :id", other=uuid4(), id=lost)
    assert finish_all(engine, batch) == {first: SUCCEEDED, last: SUCCEEDED}
    assert statuses(engine, lost) == [RUNNING]
    assert {row.job_id for row in rows(engine, "SELECT job_id FROM artifacts")} == {first, last}
    assert counts(engine, campaign_id) == {SUCCEEDED: 2, RUNNING: 1}


@pytest.mark.parametrize("outcome", [made, hopeless])
def test_the_same_finish_twice(
    engine: Engine, tenant_id: UUID, outcome: Callable[[UUID], Outcome]
) -> None:
    """Running a finish again is the same as running it once, and gives the same answer."""
    submit_campaign(engine, tenant_id, 3)
    batch = take_some(engine)
    answer = finish_all(engine, batch, outcome)
    before = ledger(engine)
    assert finish_all(engine, batch, outcome) == answer
    assert ledger(engine) == before


@pytest.mark.parametrize("outcome", [retryable, Released])
def test_the_same_finish_twice_of_jobs_that_go_on(
    engine: Engine, tenant_id: UUID, outcome: Callable[[UUID], Outcome]
) -> None:
    """Jobs that came back are nobody's: a second finish does not claim to know them."""
    submit_campaign(engine, tenant_id, 3)
    batch = take_some(engine)
    finish_all(engine, batch, outcome)
    before = ledger(engine)
    assert finish_all(engine, batch, outcome) == {}
    assert ledger(engine) == before


def test_the_first_finish_of_a_job_counts(engine: Engine, tenant_id: UUID) -> None:
    """A worker that changes its mind about an ended job gets the answer of the first time."""
    submit_jobs(engine, tenant_id, 1)
    batch = take_some(engine)
    answer = finish_all(engine, batch)
    assert finish_all(engine, batch, hopeless) == answer
    check_books(engine)


@pytest.mark.parametrize("fault", [lose_commit, lose_commit_answer])
def test_a_finish_whose_commit_broke(
    engine: Engine, tenant_id: UUID, fault: Callable[[Connection], None]
) -> None:
    """Whether COMMIT got through before the connection broke or not: recorded once, and said so."""
    campaign_id = submit_campaign(engine, tenant_id, 3)
    batch = take_some(engine)
    with at_commit(engine, fault):
        assert finish_all(engine, batch) == dict.fromkeys(ids(batch), SUCCEEDED)
    assert counts(engine, campaign_id) == {SUCCEEDED: 3}
    assert value(engine, "SELECT count(*) FROM artifacts") == 3
    check_books(engine)


@pytest.mark.parametrize("fault", [lose_commit, lose_commit_answer])
def test_a_finish_that_registers(
    engine: Engine, tenant_id: UUID, fault: Callable[[Connection], None]
) -> None:
    """A job and its model are there together, once; of one whose name is taken there is neither."""
    submit_jobs(engine, tenant_id, 4)
    batch = take_some(engine)
    first, second, plain, cancelled = ids(batch)
    cancel.cancel_job(engine, tenant_id, cancelled)
    names = {first: "default/mugs", second: "default/mugs", cancelled: "default/cups"}
    outcomes: list[Outcome] = [trained(job_id, tenant_id, name) for job_id, name in names.items()]
    ends = {first: SUCCEEDED, second: FAILED, plain: SUCCEEDED, cancelled: CANCELLED}
    with at_commit(engine, fault):
        assert finish.finish(engine, batch.claim_id, [*outcomes, made(plain)]) == ends
    assert finish.finish(engine, batch.claim_id, outcomes) == {id_: ends[id_] for id_ in names}
    [model] = rows(engine, "SELECT name, source, tenant_id FROM models")
    assert tuple(model) == ("default/mugs", f"job:{first}", tenant_id)
    error = job_row(engine, second).error
    assert error["code"] == "name_taken"
    assert "'default/mugs' by now: submit it again with another name" in error["message"]
    check_books(engine)


def test_two_finishes_that_register_one_name(engine: Engine, tenant_id: UUID) -> None:
    """Of two workers that end at the same moment the first to commit has the name."""
    submit_jobs(engine, tenant_id, 6)
    batches = [take_some(engine, 3) for _ in range(2)]

    def end(batch: Batch, step: int) -> dict[UUID, JobStatus]:
        named = zip(ids(batch), "abc"[::step], strict=True)
        outcomes = [trained(job_id, tenant_id, f"default/{name}") for job_id, name in named]
        return finish.finish(engine, batch.claim_id, outcomes)

    with no_errors(engine):
        ends = together(lambda: end(batches[0], 1), lambda: end(batches[1], -1))
    assert sorted(sorted(set(left.values())) for left in ends) == [[FAILED], [SUCCEEDED]]
    check_books(engine)


@pytest.mark.parametrize("part", ["FOR UPDATE", "UPDATE jobs"])
def test_a_finish_whose_session_was_ended(engine: Engine, tenant_id: UUID, part: str) -> None:
    """A session that ends in the middle leaves nothing half done: the finish is made again."""
    campaign_id = submit_campaign(engine, tenant_id, 3)
    batch = take_some(engine)
    with at_statement(engine, part, terminate(engine)):
        assert finish_all(engine, batch) == dict.fromkeys(ids(batch), SUCCEEDED)
    assert counts(engine, campaign_id) == {SUCCEEDED: 3}
    check_books(engine)


def test_a_finish_waits_for_its_own_commit(engine: Engine, tenant_id: UUID) -> None:
    """Where the first COMMIT is still under way, the second finish waits and learns its outcome."""
    submit_campaign(engine, tenant_id, 3)
    batch = take_some(engine)
    expected = dict.fromkeys(ids(batch), SUCCEEDED)
    with ThreadPoolExecutor(1) as threads:
        second: list[Future[dict[UUID, JobStatus]]] = []

        def hold(connection: Connection) -> None:
            second.append(threads.submit(finish_all, engine, batch))
            wait_until_blocked(engine, connection_of(connection).info.backend_pid)

        with at_commit(engine, hold):
            assert finish_all(engine, batch) == expected
        assert second[0].result(LIMIT_S) == expected
    assert value(engine, "SELECT count(*) FROM artifacts") == 3
    check_books(engine)


def test_a_cancel_while_a_finish_waits(engine: Engine, tenant_id: UUID) -> None:
    """A finish that waits for its claim goes by the jobs as they are when it has it."""
    campaign_id = submit_campaign(engine, tenant_id, 2)
    batch = take_some(engine)
    flagged, other = ids(batch)
    with ThreadPoolExecutor(1) as threads:
        with engine.begin() as holder:
            holder.execute(text("SELECT FROM claims FOR UPDATE"))
            finished = threads.submit(finish_all, engine, batch)
            wait_until_blocked(engine, connection_of(holder).info.backend_pid)
            assert cancel.cancel_job(engine, tenant_id, flagged) is RUNNING
        assert finished.result(LIMIT_S) == {flagged: CANCELLED, other: SUCCEEDED}
    assert counts(engine, campaign_id) == {CANCELLED: 1, SUCCEEDED: 1}
    check_books(engine)


def test_a_finish_while_its_lease_is_taken(engine: Engine, tenant_id: UUID) -> None:
    """A finish during a sweeper's recovery waits for it, and records nothing."""
    campaign_id = submit_campaign(engine, tenant_id, 3)
    batch = take_some(engine)
    expire(engine, batch.claim_id)
    finished: list[Future[dict[UUID, JobStatus]]] = []
    with ThreadPoolExecutor(1) as threads:

        def hold(connection: Connection) -> None:
            finished.append(threads.submit(finish_all, engine, batch))
            wait_until_blocked(engine, connection_of(connection).info.backend_pid)

        with at_commit(engine, hold):
            assert recover.recover_claim(engine)
        assert finished[0].result(LIMIT_S) == {}
    assert counts(engine, campaign_id) == {QUEUED: 3}
    check_books(engine)


def test_finishing_and_recovering_at_once(
    engine: Engine, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finishes, their repetitions, expiries and cancels of the same jobs at once never deadlock."""
    monkeypatch.setattr(counters, "SLOTS", 1)  # all meet in the same counters
    outcomes: list[Callable[[UUID], Outcome]] = [made, retryable, hopeless, Released]
    with no_errors(engine):
        for number, outcome in enumerate(outcomes * 6):
            key = str(number)
            campaign_ids = [submit_campaign(engine, tenant_id, 6, key) for _ in range(2)]
            batches = [take_some(engine, 4, prefer=key) for _ in range(3)]
            for batch in batches[:2]:
                expire(engine, batch.claim_id)
            together(
                *[partial(finish_all, engine, batch, outcome) for batch in batches * 2],
                *[partial(recover_all, engine)] * 2,
                *[partial(cancel_unfinished, engine, tenant_id, each) for each in campaign_ids],
                partial(cancel_campaign, engine, tenant_id, campaign_ids[0]),
                partial(cancel.cancel_flagged, engine),
                partial(take, engine, 3, prefer=key),
            )
            check_books(engine)


def cancel_unfinished(engine: Engine, tenant_id: UUID, campaign_id: UUID) -> None:
    """Cancel some of the campaign's jobs one by one, the last ones first."""
    for job_id in campaign_jobs(engine, campaign_id)[:2:-1]:
        with suppress(cancel.WrongStateError):
            cancel.cancel_job(engine, tenant_id, job_id)


def cancel_campaign(engine: Engine, tenant_id: UUID, campaign_id: UUID) -> None:
    """Cancel the campaign, unless its last job was finished a moment ago."""
    with suppress(cancel.WrongStateError):
        cancel.cancel_campaign(engine, tenant_id, campaign_id)


def cancel_if_unfinished(engine: Engine, tenant_id: UUID, campaign_id: UUID) -> None:
    """Cancel the campaign, unless the others were faster."""
    with suppress(cancel.WrongStateError):
        cancel.cancel_campaign(engine, tenant_id, campaign_id)


def test_backoff_grows_and_spreads() -> None:
    """The wait doubles with every attempt up to a limit, and no two jobs wait the same."""
    for attempts in range(1, 40):
        ceiling = min(BACKOFF_FIRST_S * 2 ** (attempts - 1), BACKOFF_MOST_S)
        waits = [backoff_s(attempts) for _ in range(20)]
        assert all(ceiling / 2 <= wait <= ceiling for wait in waits)
        assert len(set(waits)) > 1


def test_a_failure_may_ask_for_solitude(engine: Engine, tenant_id: UUID) -> None:
    """Only the job that failed so is claimed alone from then on, and nothing takes that back."""
    suspect, mate = submit_jobs(engine, tenant_id, 2)
    batch = take_some(engine)
    alone = Failed(suspect, "device_error", "it broke", retry=True, solo=True)
    finish.finish(engine, batch.claim_id, [alone, broken(mate, retry=True)])
    for _ in range(2):
        let_wait_end(engine)
        recover.promote(engine)
        assert (job_row(engine, suspect).solo, job_row(engine, mate).solo) == (True, False)
        batch = take_some(engine)
        assert ids(batch) == [suspect]
        release_all(engine, batch)


def test_a_release_may_say_why(engine: Engine, tenant_id: UUID) -> None:
    """It is seen while the job is queued, until a release without a reason, or a success."""
    (job_id,) = submit_jobs(engine, tenant_id, 1)
    batch = take_some(engine)
    finish.finish(engine, batch.claim_id, [Released(job_id, "disk_full", "no space")])
    row = job_row(engine, job_id)
    assert (row.status, row.attempts) == ("queued", 0)
    assert row.error == {"code": "disk_full", "message": "no space"}
    release_all(engine, take_some(engine))
    assert job_row(engine, job_id).error is None
    batch = take_some(engine)
    finish.finish(engine, batch.claim_id, [Released(job_id, "disk_full", "no space")])
    finish_all(engine, take_some(engine))
    assert job_row(engine, job_id).error is None
