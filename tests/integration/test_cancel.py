"""How work is stopped and asked for again, and what a campaign's callers see of it."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Connection, Engine

from storage import tenants, views
from storage.ledger import cancel, fanout, recover, submit
from storage.ledger.cancel import WrongStateError
from storage.ledger.claim import CANCEL_CHANNEL, Batch
from storage.ledger.finish import Outcome, Released
from storage.lifecycle import CampaignStatus, JobStatus
from tests.integration.ledger_cases import (
    LIMIT_S,
    at_commit,
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
    let_wait_end,
    listening,
    made,
    new_campaign,
    recipient_rows,
    statuses,
    submit_campaign,
    submit_jobs,
    take,
    take_some,
    together,
    wait_until_blocked,
)

SUCCEEDED, FAILED, CANCELLED = JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED
WAITING, QUEUED, RUNNING = JobStatus.WAITING, JobStatus.QUEUED, JobStatus.RUNNING


def retryable(job_id: UUID) -> Outcome:
    """It may go better next time."""
    return broken(job_id, retry=True)


def hopeless(job_id: UUID) -> Outcome:
    """It will not."""
    return broken(job_id, retry=False)


def another_tenant(engine: Engine) -> UUID:
    """A tenant who may see nothing of the first one's."""
    with engine.begin() as connection:
        return tenants.ensure(connection, "other")


def notified(engine: Engine, act: Callable[[], object]) -> list[str]:
    """What a listening worker hears of ``act``, up to a mark that is sent after it."""
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as listener:
        listener.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CANCEL_CHANNEL)))
        act()
        execute(engine, "SELECT pg_notify(:channel, 'mark')", channel=CANCEL_CHANNEL)
        heard: list[str] = []
        for message in listener.notifies(timeout=LIMIT_S):
            if message.payload == "mark":
                return heard
            heard.append(message.payload)
    raise AssertionError("the mark was not heard")


def seen(engine: Engine, tenant_id: UUID, campaign_id: UUID) -> tuple[CampaignStatus, bool]:
    """The campaign's status and whether it is over, as its owner sees it."""
    with engine.begin() as connection:
        campaign = views.campaign(connection, tenant_id, campaign_id)
    assert campaign is not None
    return campaign.status, campaign.over


def cancel_all_flagged(engine: Engine) -> list[int]:
    """Go on until there is nothing left to cancel; how many each time."""
    done = []
    while cancelled := cancel.cancel_flagged(engine):
        done.append(cancelled)
    return done


def test_cancel_a_queued_job(engine: Engine, tenant_id: UUID) -> None:
    """A job that has not started is cancelled at once, and never runs."""
    campaign_id = submit_campaign(engine, tenant_id, 2)
    first, second = campaign_jobs(engine, campaign_id)
    assert cancel.cancel_job(engine, tenant_id, first) is CANCELLED
    assert counts(engine, campaign_id) == {CANCELLED: 1, QUEUED: 1}
    assert ids(take_some(engine)) == [second]
    check_books(engine)


def test_cancel_a_waiting_job(engine: Engine, tenant_id: UUID) -> None:
    """A job that waits for its next attempt is cancelled at once, and is not promoted."""
    campaign_id = submit_campaign(engine, tenant_id, 1)
    [job_id] = campaign_jobs(engine, campaign_id)
    finish_all(engine, take_some(engine), retryable)
    assert cancel.cancel_job(engine, tenant_id, job_id) is CANCELLED
    job = job_row(engine, job_id)
    assert (job.wait_reason, job.available_at) == (None, None)
    assert counts(engine, campaign_id) == {CANCELLED: 1}
    assert recover.promote(engine) == 0
    check_books(engine)


def test_cancel_a_running_job(engine: Engine, tenant_id: UUID) -> None:
    """A running job goes on until its worker has heard of it, and its worker is told."""
    campaign_id = submit_campaign(engine, tenant_id, 3)
    batch, other = take_some(engine, 2), take_some(engine, 1)
    job_id = ids(batch)[1]
    answers: list[JobStatus | None] = []
    heard = notified(engine, lambda: answers.append(cancel.cancel_job(engine, tenant_id, job_id)))
    assert answers == [RUNNING]
    assert heard == [str(batch.claim_id)]
    assert statuses(engine, *ids(batch), *ids(other)) == [RUNNING] * 3
    assert counts(engine, campaign_id) == {RUNNING: 3}
    finish_all(engine, batch)
    assert statuses(engine, *ids(batch)) == [SUCCEEDED, CANCELLED]
    check_books(engine)


def test_nobody_is_told_of_a_job_that_does_not_run(engine: Engine, tenant_id: UUID) -> None:
    """Cancelling a queued job, or a cancelled one again, disturbs no worker."""
    _, job_id = submit_jobs(engine, tenant_id, 2)
    take_some(engine, 1)
    for _ in range(2):
        assert notified(engine, partial(cancel.cancel_job, engine, tenant_id, job_id)) == []


def test_cancel_twice(engine: Engine, tenant_id: UUID) -> None:
    """Cancelling again changes nothing, before and after the worker has stopped."""
    [job_id] = submit_jobs(engine, tenant_id, 1)
    batch = take_some(engine)
    assert cancel.cancel_job(engine, tenant_id, job_id) is RUNNING
    assert cancel.cancel_job(engine, tenant_id, job_id) is RUNNING
    finish_all(engine, batch, Released)
    before = job_row(engine, job_id)
    assert cancel.cancel_job(engine, tenant_id, job_id) is CANCELLED
    assert job_row(engine, job_id) == before


@pytest.mark.parametrize(("outcome", "status"), [(made, SUCCEEDED), (hopeless, FAILED)])
def test_cancel_a_job_that_is_over(
    engine: Engine, tenant_id: UUID, outcome: Callable[[UUID], Outcome], status: JobStatus
) -> None:
    """What has ended otherwise cannot be cancelled, and the caller is told how it ended."""
    [job_id] = submit_jobs(engine, tenant_id, 1)
    finish_all(engine, take_some(engine), outcome)
    before = job_row(engine, job_id)
    with pytest.raises(WrongStateError) as caught:
        cancel.cancel_job(engine, tenant_id, job_id)
    assert caught.value.status == status
    assert job_row(engine, job_id) == before


def test_other_tenants_jobs(engine: Engine, tenant_id: UUID) -> None:
    """What belongs to another tenant is as if it were not there."""
    campaign_id = submit_campaign(engine, tenant_id, 1)
    [job_id] = campaign_jobs(engine, campaign_id)
    other_id = another_tenant(engine)
    before = job_row(engine, job_id)
    for name in (other_id, uuid4()):
        assert cancel.cancel_job(engine, name, job_id) is None
        assert cancel.retry_job(engine, name, job_id) is None
        assert not cancel.cancel_campaign(engine, name, campaign_id)
    assert cancel.cancel_job(engine, tenant_id, uuid4()) is None
    assert cancel.retry_job(engine, tenant_id, uuid4()) is None
    assert not cancel.cancel_campaign(engine, tenant_id, uuid4())
    assert job_row(engine, job_id) == before
    assert seen(engine, tenant_id, campaign_id) == (CampaignStatus.RUNNING, False)


def test_cancel_and_finish_at_once(engine: Engine, tenant_id: UUID) -> None:
    """The first commit wins: the answer to a cancel and the job's end never contradict."""
    for _ in range(30):
        [job_id] = submit_jobs(engine, tenant_id, 1)
        batch = take_some(engine)
        told, finished = together(
            partial(cancel_answer, engine, tenant_id, job_id), partial(finish_one, engine, batch)
        )
        assert (told, finished) in [(RUNNING, CANCELLED), (SUCCEEDED, SUCCEEDED)]
        assert statuses(engine, job_id) == [finished]
    check_books(engine)


def finish_one(engine: Engine, batch: Batch) -> JobStatus | None:
    """What the worker of a batch of one hears."""
    [status] = finish_all(engine, batch).values()
    return status


def cancel_answer(engine: Engine, tenant_id: UUID, job_id: UUID) -> JobStatus | None:
    """What whoever cancels hears."""
    try:
        return cancel.cancel_job(engine, tenant_id, job_id)
    except WrongStateError as error:
        return JobStatus(error.status)


def test_cancel_and_claim_at_once(engine: Engine, tenant_id: UUID) -> None:
    """A job is cancelled before it is claimed, or after: it is not both cancelled and claimed."""
    for _ in range(30):
        [job_id] = submit_jobs(engine, tenant_id, 1)
        calls: list[Callable[[], object]] = [
            partial(cancel_answer, engine, tenant_id, job_id),
            partial(take, engine),
        ]
        told, batch = together(*calls)
        assert told is (CANCELLED if batch is None else RUNNING)
        if isinstance(batch, Batch):
            assert finish_all(engine, batch) == {job_id: CANCELLED}
    check_books(engine)


@pytest.mark.parametrize("way", ["failed", "cancelled"])
def test_retry(engine: Engine, tenant_id: UUID, way: str) -> None:
    """A failed or cancelled job is queued again with three more attempts, the old ones counted."""
    campaign_id = submit_campaign(engine, tenant_id, 1)
    batch = take_some(engine)
    [job_id] = ids(batch)
    if way == "cancelled":
        cancel.cancel_job(engine, tenant_id, job_id)
    finish_all(engine, batch, hopeless)
    assert statuses(engine) == [way]
    assert cancel.retry_job(engine, tenant_id, job_id) == "default"
    job = job_row(engine, job_id)
    assert (job.status, job.attempts, job.max_attempts) == ("queued", 1, 4)
    assert (job.error, job.finished_at, job.claim_id) == (None, None, None)
    assert not job.cancel_requested
    assert counts(engine, campaign_id) == {QUEUED: 1}
    for expected in (WAITING, WAITING, FAILED):
        assert finish_all(engine, take_some(engine), retryable) == {job_id: expected}
        let_wait_end(engine)
        recover.promote(engine)
    check_books(engine)


def test_a_retried_job_can_succeed(engine: Engine, tenant_id: UUID) -> None:
    """A job that was cancelled while it ran is not cancelled once more when it runs again."""
    [job_id] = submit_jobs(engine, tenant_id, 1)
    batch = take_some(engine)
    cancel.cancel_job(engine, tenant_id, job_id)
    finish_all(engine, batch)
    cancel.retry_job(engine, tenant_id, job_id)
    assert finish_all(engine, take_some(engine)) == {job_id: SUCCEEDED}
    check_books(engine)


def test_a_retried_job_has_mates_again(engine: Engine, tenant_id: UUID) -> None:
    """A job that was solo because its lease expired starts afresh when it is asked for again."""
    job_ids = submit_jobs(engine, tenant_id, 2)
    for _ in range(2):
        expire(engine, take_some(engine).claim_id)
        assert recover.recover_claim(engine)
    for job_id in job_ids:
        cancel.cancel_job(engine, tenant_id, job_id)
        cancel.retry_job(engine, tenant_id, job_id)
    assert ids(take_some(engine)) == job_ids


@pytest.mark.parametrize("state", [QUEUED, RUNNING, WAITING, SUCCEEDED])
def test_retry_in_the_wrong_state(engine: Engine, tenant_id: UUID, state: JobStatus) -> None:
    """Only what has failed or was cancelled can be asked for again."""
    [job_id] = submit_jobs(engine, tenant_id, 1)
    if state is not QUEUED:
        batch = take_some(engine)
        if state is not RUNNING:
            finish_all(engine, batch, made if state is SUCCEEDED else retryable)
    before = job_row(engine, job_id)
    assert before.status == state
    with pytest.raises(WrongStateError) as caught:
        cancel.retry_job(engine, tenant_id, job_id)
    assert caught.value.status == state
    assert job_row(engine, job_id) == before


def test_retry_in_a_cancelled_campaign(engine: Engine, tenant_id: UUID) -> None:
    """A job of a cancelled campaign stays as it is: nothing would claim it."""
    campaign_id = submit_campaign(engine, tenant_id, 1)
    cancel.cancel_campaign(engine, tenant_id, campaign_id)
    cancel_all_flagged(engine)
    with pytest.raises(WrongStateError):
        cancel.retry_job(engine, tenant_id, campaign_jobs(engine, campaign_id)[0])
    assert counts(engine, campaign_id) == {CANCELLED: 1}


def test_retries_at_once(engine: Engine, tenant_id: UUID) -> None:
    """Of several who retry at once one succeeds, and the job is queued and counted once."""
    campaign_id = submit_campaign(engine, tenant_id, 1)
    [job_id] = campaign_jobs(engine, campaign_id)
    cancel.cancel_job(engine, tenant_id, job_id)

    def retry() -> str | None:
        try:
            return cancel.retry_job(engine, tenant_id, job_id)
        except WrongStateError as error:
            return error.status

    assert sorted(map(str, together(*[retry] * 4))) == ["default", *["queued"] * 3]
    assert counts(engine, campaign_id) == {QUEUED: 1}


def test_cancel_a_campaign_in_chunks(
    engine: Engine, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has not started is cancelled, what runs is flagged and told, what is over stays."""
    monkeypatch.setattr(cancel, "CHUNK", 3)
    campaign_id = submit_campaign(engine, tenant_id, 12)
    other_id = submit_campaign(engine, tenant_id, 2, "b")
    finish_all(engine, take_some(engine, 1, prefer="a"))
    finish_all(engine, take_some(engine, 1, prefer="a"), hopeless)
    finish_all(engine, take_some(engine, 2, prefer="a"), retryable)
    running = [take_some(engine, 2, prefer="a") for _ in range(2)]
    assert counts(engine, campaign_id) == {
        SUCCEEDED: 1, FAILED: 1, WAITING: 2, RUNNING: 4, QUEUED: 4
    }  # fmt: skip

    assert cancel.cancel_campaign(engine, tenant_id, campaign_id)
    done: list[int] = []
    chunks: list[UUID] = []

    def note(_: Any, _cursor: Any, statement: str, values: Any, *_more: Any) -> None:
        if "WITH chunk" in statement:
            chunks.append(values["behind"])

    with listening(engine, "before_cursor_execute", note):
        heard = notified(engine, lambda: done.extend(cancel_all_flagged(engine)))
    assert done == [10]
    # Each goes on where the one before ended; the last finds nothing.
    not_started = campaign_jobs(engine, campaign_id)[2:4] + campaign_jobs(engine, campaign_id)[8:]
    assert chunks == [UUID(int=0), not_started[2], not_started[5]]
    assert set(heard) == {str(batch.claim_id) for batch in running}
    assert counts(engine, campaign_id) == {SUCCEEDED: 1, FAILED: 1, CANCELLED: 6, RUNNING: 4}
    assert counts(engine, other_id) == {QUEUED: 2}

    finish_all(engine, running[0])
    finish_all(engine, running[1], Released)
    assert counts(engine, campaign_id) == {SUCCEEDED: 1, FAILED: 1, CANCELLED: 10}
    assert cancel.cancel_flagged(engine) == 0
    check_books(engine)


def test_cancel_flagged_leaves_nothing_to_itself(engine: Engine, tenant_id: UUID) -> None:
    """Without cancelled campaigns there is nothing to do, whatever is queued."""
    submit_campaign(engine, tenant_id, 3)
    submit_jobs(engine, tenant_id, 3)
    assert cancel.cancel_flagged(engine) == 0
    assert statuses(engine) == [QUEUED] * 6


def test_a_lost_worker_of_a_cancelled_campaign(engine: Engine, tenant_id: UUID) -> None:
    """Jobs that come back to a cancelled campaign do not run again, flagged already or not yet."""
    campaign_id = submit_campaign(engine, tenant_id, 3)
    batch = take_some(engine)
    cancel.cancel_campaign(engine, tenant_id, campaign_id)
    expire(engine, batch.claim_id)
    assert recover.recover_claim(engine)
    assert take(engine) is None
    cancel_all_flagged(engine)
    assert counts(engine, campaign_id) == {CANCELLED: 3}
    check_books(engine)


def test_cancel_before_the_fan_out(engine: Engine, tenant_id: UUID) -> None:
    """A campaign that is cancelled while it waits for its jobs never gets any, and is over."""
    campaign_id = submit.submit_campaign(engine, new_campaign(tenant_id), recipient_rows(3))
    assert cancel.cancel_campaign(engine, tenant_id, campaign_id)
    assert fan_out(engine) == {}
    assert campaign_jobs(engine, campaign_id) == []
    assert seen(engine, tenant_id, campaign_id) == (CampaignStatus.CANCELLED, True)


def test_cancel_during_the_fan_out(engine: Engine, tenant_id: UUID) -> None:
    """A cancel that comes while the jobs are being made waits, and then gets them all."""
    campaign_id = submit.submit_campaign(engine, new_campaign(tenant_id), recipient_rows(5))
    cancelled: list[Future[bool]] = []
    with ThreadPoolExecutor(1) as threads:

        def hold(connection: Connection) -> None:
            cancelled.append(threads.submit(cancel.cancel_campaign, engine, tenant_id, campaign_id))
            wait_until_blocked(engine, connection_of(connection).info.backend_pid)

        with at_commit(engine, hold):
            assert next(fanout.fan_out(engine)).jobs == 5
        assert cancelled[0].result(LIMIT_S)
    cancel_all_flagged(engine)
    assert counts(engine, campaign_id) == {CANCELLED: 5}
    assert seen(engine, tenant_id, campaign_id) == (CampaignStatus.CANCELLED, True)


def test_cancel_a_campaign_twice(engine: Engine, tenant_id: UUID) -> None:
    """Cancelling again keeps the time of the first cancel."""
    campaign_id = submit_campaign(engine, tenant_id, 1)
    assert cancel.cancel_campaign(engine, tenant_id, campaign_id)
    with engine.begin() as connection:
        first = connection.exec_driver_sql("SELECT cancelled_at FROM campaigns").scalar()
    assert cancel.cancel_campaign(engine, tenant_id, campaign_id)
    with engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT cancelled_at FROM campaigns").scalar() == first


def test_cancel_a_finished_campaign(engine: Engine, tenant_id: UUID) -> None:
    """A campaign whose jobs have all ended cannot be cancelled, and stays finished."""
    campaign_id = submit_campaign(engine, tenant_id, 2)
    finish_all(engine, take_some(engine))
    with pytest.raises(WrongStateError) as caught:
        cancel.cancel_campaign(engine, tenant_id, campaign_id)
    assert caught.value.status == CampaignStatus.FINISHED
    assert seen(engine, tenant_id, campaign_id) == (CampaignStatus.FINISHED, True)
    assert counts(engine, campaign_id) == {SUCCEEDED: 2}


def test_a_campaigns_life(engine: Engine, tenant_id: UUID) -> None:
    """A campaign compiles, runs, is finished when its last job has ended, and runs on a retry."""
    campaign_id = submit.submit_campaign(engine, new_campaign(tenant_id), recipient_rows(3))
    assert seen(engine, tenant_id, campaign_id) == (CampaignStatus.COMPILING, False)
    fan_out(engine)
    assert seen(engine, tenant_id, campaign_id) == (CampaignStatus.RUNNING, False)
    finish_all(engine, take_some(engine, 1))
    finish_all(engine, take_some(engine, 1), retryable)
    finish_all(engine, take_some(engine, 1), hopeless)
    assert seen(engine, tenant_id, campaign_id) == (CampaignStatus.RUNNING, False)
    let_wait_end(engine)
    recover.promote(engine)
    batch = take_some(engine)
    assert seen(engine, tenant_id, campaign_id) == (CampaignStatus.RUNNING, False)
    finish_all(engine, batch)
    assert seen(engine, tenant_id, campaign_id) == (CampaignStatus.FINISHED, True)
    failed = campaign_jobs(engine, campaign_id)[2]
    cancel.retry_job(engine, tenant_id, failed)
    assert seen(engine, tenant_id, campaign_id) == (CampaignStatus.RUNNING, False)


def test_a_cancelled_campaigns_life(engine: Engine, tenant_id: UUID) -> None:
    """A cancelled campaign is cancelled at once, and over when its last running job has stopped."""
    campaign_id = submit_campaign(engine, tenant_id, 2)
    batch = take_some(engine, 1)
    cancel.cancel_campaign(engine, tenant_id, campaign_id)
    assert seen(engine, tenant_id, campaign_id) == (CampaignStatus.CANCELLED, False)
    cancel_all_flagged(engine)
    assert seen(engine, tenant_id, campaign_id) == (CampaignStatus.CANCELLED, False)
    finish_all(engine, batch)
    assert seen(engine, tenant_id, campaign_id) == (CampaignStatus.CANCELLED, True)
