"""The ledger against a model of it that fits on a page, in whatever order things happen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar
from uuid import UUID

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Connection, Engine

from storage import tenants
from storage.ledger import cancel, claim, fanout, finish, pause, recover, submit, windows
from storage.ledger.cancel import RETRY_ATTEMPTS, WrongStateError
from storage.ledger.claim import Batch
from storage.ledger.finish import Deferred, Outcome, Released, Reused
from storage.ledger.new_needs import NeedError
from storage.lifecycle import CANCELLABLE, FINAL, RETRYABLE, TRANSITIONS, JobStatus
from tests.integration.ledger_cases import (
    JOBS,
    LEASE_S,
    at_commit,
    broken,
    campaign_jobs,
    check_books,
    connection_of,
    execute,
    expire,
    fan_out,
    ids,
    let_wait_end,
    made,
    new_campaign,
    new_job,
    recipient_rows,
    rows,
    take,
    trained,
)

QUEUED, RUNNING, WAITING = JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.WAITING
SUCCEEDED, FAILED, CANCELLED = JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED

KEYS = st.sampled_from("ab")
ANY = st.integers(0, 99)
"""Which one of those that there are."""
ENDS = st.sampled_from(
    [
        "succeeded",
        "trained",
        "reused",
        "retryable",
        "retryable",
        "hopeless",
        "released",
        "deferred",
        "goes on",
    ]
)
MOST = 4
STEPS_S = st.sampled_from([-3600, 3600])
WAIT_S = 1000.0
"""How long a backoff or a closed window takes here: far from 0 after any number of clock steps, as
leases are."""
FOR_EVER = float("inf")
"""For a need, or for somebody to resume it."""
BAD = FINAL - {SUCCEEDED}

T = TypeVar("T")


def pick(things: Sequence[T], number: int) -> T:
    """One of those that there are."""
    return things[number % len(things)]


@dataclass
class ModelJob:
    """What must be true of a job."""

    id: UUID
    campaign_id: UUID | None
    key: str
    priority: int = 0
    status: JobStatus = QUEUED
    attempts: int = 0
    max_attempts: int = 3
    solo: bool = False
    flagged: bool = False
    paused: bool = False
    claim_id: UUID | None = None
    wait_s: float = 0.0
    needs: frozenset[UUID] = frozenset()
    followed: bool = False  # it has ended because of a need

    def end(self, how: str) -> None:
        """What its holder's finish makes of it."""
        if self.flagged:
            self.status = CANCELLED
        elif how in {"succeeded", "trained"}:
            self.status = SUCCEEDED
        elif how == "released":
            self.status = QUEUED
            self.attempts -= 1
        elif how == "deferred":
            self.status = WAITING
            self.attempts -= 1
            self.wait_s = WAIT_S
        elif how == "retryable" and self.attempts < self.max_attempts:
            self.status = WAITING
            self.wait_s = WAIT_S
        else:
            self.status = FAILED
        if self.status not in FINAL:
            self.claim_id = None
            self.stay_paused()

    def lose(self) -> None:
        """What the end of its lease makes of it."""
        if self.flagged:
            self.status = CANCELLED
        else:
            self.status = QUEUED if self.attempts < self.max_attempts else FAILED
        self.solo = True
        self.claim_id = None
        self.stay_paused()

    def stay_paused(self) -> None:
        """One that is to be paused is not tried again before somebody resumes it."""
        if self.paused and self.status not in FINAL:
            self.status = WAITING
            self.wait_s = FOR_EVER


class CrashError(Exception):
    """The process has died."""


def die(_: Connection) -> None:
    """For `at_commit`: the process dies, and its transaction with it."""
    raise CrashError


def commit_and_die(connection: Connection) -> None:
    """For `at_commit`: the server commits, and nobody is there any more to hear so."""
    connection_of(connection).commit()
    raise CrashError


class LedgerMachine(RuleBasedStateMachine):
    """Drives the ledger's public functions, and the model beside them."""

    engine: ClassVar[Engine]

    def __init__(self) -> None:
        """Start with empty tables."""
        super().__init__()
        execute(
            self.engine,
            "TRUNCATE tenants, campaigns, creatives, recipients, claims, jobs, job_needs,"
            " job_events, artifacts, campaign_counters, api_keys, datasets, schedules,"
            " schedule_runs, models, training_speeds",
        )
        with self.engine.begin() as connection:
            self.tenant_id = tenants.ensure(connection, "machine")
        self.jobs: dict[UUID, ModelJob] = {}
        self.compiling: dict[UUID, tuple[str, ...]] = {}
        self.campaigns: list[UUID] = []
        self.cancelled: set[UUID] = set()
        self.closed: set[UUID] = set()
        self.batches: list[Batch] = []  # of the dead as well: those are the zombies
        self.lease_s: dict[UUID, float] = {}
        self.artifacts: set[tuple[UUID, UUID]] = set()
        self.models: dict[str, UUID] = {}  # by name, the job that made it
        self.seen: dict[UUID, JobStatus] = {}

    def model_of(self, job_id: UUID) -> str:
        """What the job calls the model that it makes: now and then as another one does."""
        return f"machine/{list(self.jobs).index(job_id) % 8}"

    def outcome(self, how: str, job_id: UUID, batch: Batch, source: UUID) -> Outcome:
        """The end of a job as its worker reports it; what is reused is the ``source``'s."""
        match how:
            case "succeeded":
                return made(job_id, by=str(batch.claim_id), outputs=2)
            case "trained":
                name = self.model_of(job_id)
                return trained(job_id, self.tenant_id, name, by=str(batch.claim_id))
            case "reused":
                return Reused(job_id, source)
            case "released":
                return Released(job_id)
            case "deferred":
                return Deferred(job_id, WAIT_S)
            case _:
                return broken(job_id, retry=how == "retryable")

    def held_by(self, claim_id: UUID) -> list[ModelJob]:
        """The jobs that run under a claim."""
        return [
            job for job in self.jobs.values() if (job.claim_id, job.status) == (claim_id, RUNNING)
        ]

    def in_status(self, *status: JobStatus) -> list[ModelJob]:
        """The jobs that are somewhere."""
        return [job for job in self.jobs.values() if job.status in status]

    def some_batch(self, number: int) -> Batch:
        """One that its worker still holds, or now and then a zombie's."""
        held = [batch for batch in self.batches if self.held_by(batch.claim_id)]
        return pick(held if held and number % 4 else self.batches, number)

    def doomed(self, job: ModelJob) -> bool:
        """Whether the job's campaign was cancelled."""
        return job.campaign_id in self.cancelled

    def held_back(self, job: ModelJob) -> bool:
        """Whether the run window of the job's campaign has ended."""
        return job.campaign_id in self.closed

    def follow(self) -> None:
        """What waits for jobs that have ended goes the same way."""
        for job in sorted(self.in_status(WAITING), key=lambda job: job.id):
            if job.wait_s < FOR_EVER or job.paused:
                continue
            ends = {self.jobs[need].status for need in job.needs}
            if ends & BAD:
                job.status = CANCELLED if ends & BAD == {CANCELLED} else FAILED
                job.followed = True
            elif ends == {SUCCEEDED}:
                job.status = QUEUED

    def revive(self) -> None:
        """What ended with a job that is tried again waits for it."""
        for job in sorted(self.in_status(FAILED, CANCELLED), key=lambda job: job.id):
            if job.followed and not {self.jobs[need].status for need in job.needs} & BAD:
                job.status, job.followed, job.wait_s = WAITING, False, FOR_EVER
                job.max_attempts = job.attempts + RETRY_ATTEMPTS
                job.flagged = job.paused = job.solo = False
                job.claim_id = None

    @initialize(lengths=st.lists(st.integers(1, 3), min_size=3, max_size=3), key=KEYS)
    def start(self, lengths: list[int], key: str) -> None:
        """Some jobs are there that need one another."""
        for length in lengths:
            for number in range(length):
                self.submit_job(key, 0, list(range(number)))

    @rule(key=KEYS, priority=st.integers(-1, 1), numbers=st.lists(ANY, max_size=3))
    def submit_job(self, key: str, priority: int, numbers: list[int]) -> None:
        """A single job comes in, that may need others."""
        unfinished = self.in_status(QUEUED, WAITING, RUNNING)
        some = unfinished or list(self.jobs.values())
        needs = {job.id: job.status for job in (pick(some, each) for each in numbers if some)}
        job = new_job(self.tenant_id, key, priority=priority, needs=tuple(needs))
        if BAD & set(needs.values()):
            with pytest.raises(NeedError):
                submit.submit_job(self.engine, job)
            return
        job_id = submit.submit_job(self.engine, job)
        model = ModelJob(job_id, None, key, priority, needs=frozenset(needs))
        if set(needs.values()) - {SUCCEEDED}:
            model.status, model.wait_s = WAITING, FOR_EVER
        self.jobs[job_id] = model

    @rule(recipients=st.integers(1, 3), keys=st.lists(KEYS, min_size=1, max_size=2))
    def submit_campaign(self, recipients: int, keys: list[str]) -> None:
        """A campaign comes in; it has no jobs yet."""
        campaign_id = submit.submit_campaign(
            self.engine, new_campaign(self.tenant_id, *keys), recipient_rows(recipients)
        )
        self.compiling[campaign_id] = tuple(keys * recipients)
        self.campaigns.append(campaign_id)

    @rule()
    def fan_out(self) -> None:
        """All campaigns that wait for their jobs get them."""
        wanted = {
            campaign_id: len(keys)
            for campaign_id, keys in self.compiling.items()
            if campaign_id not in self.cancelled
        }
        assert fan_out(self.engine) == wanted
        for campaign_id in wanted:
            job_ids = campaign_jobs(self.engine, campaign_id)
            for job_id, key in zip(job_ids, self.compiling[campaign_id], strict=True):
                self.jobs[job_id] = job = ModelJob(job_id, campaign_id, key)
                if campaign_id in self.closed:
                    job.status, job.wait_s = WAITING, WAIT_S
        self.compiling.clear()

    @rule(size=st.integers(1, MOST), prefer=st.none() | KEYS, after=st.none() | KEYS)
    def claim(self, size: int, prefer: str | None, after: str | None) -> None:
        """A worker asks for work."""
        barred = [job for job in self.in_status(QUEUED) if self.doomed(job) or self.held_back(job)]
        expected = self.next_batches(size, prefer, after)
        batch = take(self.engine, size, prefer=prefer, after=after)
        found = ids(batch) if batch else []
        if barred:
            # How many of them it meets and drops on its way is its own affair.
            dropped = rows(
                self.engine,
                "SELECT id FROM jobs WHERE status IN ('cancelled', 'waiting') AND id = ANY(:ids)",
                ids=[job.id for job in barred],
            )
            for row in dropped:
                barred_job = self.jobs[row.id]
                barred_job.status = CANCELLED if self.doomed(barred_job) else WAITING
                barred_job.wait_s = WAIT_S
            self.follow()
            assert all(self.jobs[job_id].status is QUEUED for job_id in found)
            assert not {job.id for job in barred} & set(found)
            assert len({self.jobs[job_id].key for job_id in found}) <= 1
            assert len(found) <= 1 or not any(self.jobs[job_id].solo for job_id in found)
        else:
            assert found in expected
        if batch:
            self.batches.append(batch)
            self.lease_s[batch.claim_id] = LEASE_S
        for job in batch.jobs if batch else ():
            model = self.jobs[job.id]
            model.status = RUNNING
            model.attempts += 1
            model.claim_id = batch.claim_id if batch else None
            assert job.attempt == model.attempts

    def next_batches(self, size: int, prefer: str | None, after: str | None) -> list[list[UUID]]:
        """What a claim may take, where no campaign is cancelled: several where chance decides."""
        queued = sorted(self.in_status(QUEUED), key=lambda job: (job.priority, job.id))
        if not queued:
            return [[]]
        best = sorted({job.key for job in queued if job.priority == queued[0].priority})
        if prefer in best:
            keys = [prefer]
        elif came_from := prefer or after:
            keys = [min(best, key=lambda key: (key <= came_from, key))]
        else:
            keys = best
        return [self.batch_of([job for job in queued if job.key == key], size) for key in keys]

    def batch_of(self, mates: list[ModelJob], size: int) -> list[UUID]:
        """The first jobs of a key that may share a batch."""
        first, *others = mates[:size]
        return [first.id, *(job.id for job in others if not (first.solo or job.solo))]

    @precondition(lambda self: self.batches)
    @rule(number=ANY, ends=st.lists(ENDS, min_size=MOST, max_size=MOST), dies=st.booleans())
    def finish(self, number: int, ends: list[str], dies: bool) -> None:  # noqa: FBT001 (a draw)
        """A worker, or its zombie, reports how some of its jobs ended, and may die over it."""
        batch = self.some_batch(number)
        makers = dict(self.artifacts)
        named = {
            job_id: how for job_id, how in zip(ids(batch), ends, strict=False) if how != "goes on"
        }
        expected = {}
        source = pick(list(self.jobs), number)
        # What refers to another comes last: that one may be a mate.
        for job_id, how in sorted(named.items(), key=lambda each: (each[1] == "reused", each[0])):
            job = self.jobs[job_id]
            if job.claim_id != batch.claim_id:
                continue
            if job.status is RUNNING:
                maker = makers.get(source) if how == "reused" else batch.claim_id
                end = how if how != "reused" else "succeeded" if maker else "released"
                if how == "trained" and not job.flagged:
                    first = self.models.setdefault(self.model_of(job_id), job_id)
                    end = how if first == job_id else "hopeless"
                job.end(end)
                if job.status is SUCCEEDED and maker:
                    self.artifacts.add((job_id, maker))
                    if how != "reused":
                        makers[job_id] = maker
            expected[job_id] = job.status
        self.follow()
        outcomes = [self.outcome(how, job_id, batch, source) for job_id, how in named.items()]
        if dies:
            with pytest.raises(CrashError), at_commit(self.engine, commit_and_die):
                finish.finish(self.engine, batch.claim_id, outcomes)
        else:
            assert finish.finish(self.engine, batch.claim_id, outcomes) == expected
        # Longer than it would be, so that no wait ends by itself while the test runs.
        execute(
            self.engine,
            "UPDATE jobs SET available_at = clock_timestamp() + make_interval(secs => :s)"
            " WHERE id = ANY(:ids) AND wait_reason = 'backoff'",
            s=WAIT_S,
            ids=[job_id for job_id, status in expected.items() if status is WAITING],
        )

    @precondition(
        lambda self: (
            self.in_status(QUEUED)
            and not any(self.doomed(job) or self.held_back(job) for job in self.in_status(QUEUED))
        )
    )
    @rule(size=st.integers(1, MOST))
    def claim_and_die(self, size: int) -> None:
        """A worker's claim is committed, and the worker dies before it hears so."""
        expected = self.next_batches(size, None, None)
        with pytest.raises(CrashError), at_commit(self.engine, commit_and_die):
            take(self.engine, size)
        claimed = rows(
            self.engine,
            "SELECT id, claim_id FROM jobs WHERE status = 'running' AND claim_id <> ALL(:known)"
            " ORDER BY priority, id",
            known=list(self.lease_s),
        )
        assert [row.id for row in claimed] in expected
        for row in claimed:
            self.lease_s[row.claim_id] = LEASE_S
            job = self.jobs[row.id]
            job.status = RUNNING
            job.attempts += 1
            job.claim_id = row.claim_id

    @rule(number=ANY)
    def crash(self, number: int) -> None:
        """Somebody dies before a COMMIT: nothing has happened."""
        calls: list[Callable[[], object]] = [
            lambda: take(self.engine, MOST),
            lambda: list(fanout.fan_out(self.engine)),
            lambda: recover.recover_claim(self.engine),
            lambda: recover.promote(self.engine),
            lambda: cancel.cancel_flagged(self.engine),
            lambda: submit.submit_job(self.engine, new_job(self.tenant_id)),
            lambda: submit.submit_campaign(
                self.engine, new_campaign(self.tenant_id, "a"), recipient_rows(2)
            ),
        ]
        if self.batches:
            batch = self.some_batch(number)
            outcomes = [
                trained(job_id, self.tenant_id, f"machine/{job_id}") for job_id in ids(batch)
            ]
            calls.append(lambda: finish.finish(self.engine, batch.claim_id, outcomes))
        if self.in_status(*CANCELLABLE):
            job = pick(self.in_status(*CANCELLABLE), number)
            calls.append(lambda: cancel.cancel_job(self.engine, self.tenant_id, job.id))
        with pytest.raises(CrashError), at_commit(self.engine, die):
            pick(calls, number)()

    @precondition(lambda self: self.batches)
    @rule(number=ANY)
    def renew(self, number: int) -> None:
        """A worker's heart beats, or its zombie's."""
        claim_id = pick(self.batches, number).claim_id
        execute(
            self.engine, "UPDATE claims SET lease_s = :s WHERE id = :id", s=LEASE_S, id=claim_id
        )
        held = self.held_by(claim_id)
        flagged = frozenset(job.id for job in held if job.flagged)
        paused = frozenset(job.id for job in held if job.paused)
        assert claim.renew(self.engine, claim_id) == claim.Lease(bool(held), flagged, paused)
        self.lease_s[claim_id] = LEASE_S

    @precondition(lambda self: self.in_status(RUNNING))
    @rule(number=ANY)
    def expire(self, number: int) -> None:
        """A worker has been silent for longer than its lease; nobody has looked yet."""
        claim_id = pick(self.in_status(RUNNING), number).claim_id
        assert claim_id is not None
        expire(self.engine, claim_id)
        self.lease_s[claim_id] = -1

    @rule(seconds=STEPS_S)
    def clock_steps(self, seconds: int) -> None:
        """The database's clock is set: what is stored seems that much nearer, or further away."""
        execute(
            self.engine,
            # Of length 0, since the server may have been up for less than the lease.
            "UPDATE claims SET lease_s = 0, lease_until = lease_until - make_interval(secs => :s)",
            s=seconds,
        )
        execute(
            self.engine,
            "UPDATE jobs SET available_at = available_at - make_interval(secs => :s)"
            " WHERE status = 'waiting'",
            s=seconds,
        )
        for claim_id in self.lease_s:
            self.lease_s[claim_id] -= seconds
        for job in self.in_status(WAITING):
            job.wait_s -= seconds

    @rule()
    def recover(self) -> None:
        """A sweeper takes all leases that have ended."""
        expected = {
            claim_id: len(held)
            for claim_id, left_s in self.lease_s.items()
            if left_s < 0 and (held := self.held_by(claim_id))
        }
        found = {}
        while recovered := recover.recover_claim(self.engine):
            found[recovered.claim_id] = recovered.jobs
            for job in self.held_by(recovered.claim_id):
                job.lose()
            self.follow()
        assert found == expected

    @precondition(lambda self: self.in_status(WAITING))
    @rule()
    def promote(self) -> None:
        """A sweeper queues the jobs whose time has come, and no others."""
        due = [job for job in self.in_status(WAITING) if job.wait_s < 0]
        assert recover.promote(self.engine) == len(due)
        for job in due:
            job.status = QUEUED

    @precondition(lambda self: self.in_status(WAITING))
    @rule()
    def let_wait_end(self) -> None:
        """The time of all waiting jobs comes."""
        let_wait_end(self.engine)
        for job in self.in_status(WAITING):
            if job.wait_s < FOR_EVER:
                job.wait_s = -1

    @precondition(lambda self: self.jobs)
    @rule(number=ANY)
    def cancel_job(self, number: int) -> None:
        """Somebody cancels a job."""
        job = pick(list(self.jobs.values()), number)
        if job.status in (SUCCEEDED, FAILED):
            with pytest.raises(WrongStateError, match=job.status):
                cancel.cancel_job(self.engine, self.tenant_id, job.id)
            return
        if job.status is RUNNING:
            job.flagged = True
        else:
            job.status = CANCELLED
        self.follow()
        assert cancel.cancel_job(self.engine, self.tenant_id, job.id) is job.status

    @precondition(lambda self: self.jobs)
    @rule(number=ANY)
    def pause_job(self, number: int) -> None:
        """Somebody pauses a job."""
        job = pick(list(self.jobs.values()), number)
        needy = job.status is WAITING and job.wait_s == FOR_EVER and not job.paused
        if job.campaign_id or job.status in FINAL or needy:
            with pytest.raises(WrongStateError):
                pause.pause_job(self.engine, self.tenant_id, job.id)
            return
        job.paused = True
        if job.status is not RUNNING:
            job.stay_paused()
        assert pause.pause_job(self.engine, self.tenant_id, job.id) is job.status

    @precondition(lambda self: self.jobs)
    @rule(number=ANY)
    def resume_job(self, number: int) -> None:
        """Somebody resumes a job, most often one that is paused."""
        jobs = list(self.jobs.values())
        paused = [job for job in jobs if job.paused and job.status not in FINAL]
        job = pick(paused if paused and number % 4 else jobs, number)
        if job not in paused:
            with pytest.raises(WrongStateError):
                pause.resume_job(self.engine, self.tenant_id, job.id)
            return
        assert pause.resume_job(self.engine, self.tenant_id, job.id) == "default"
        job.paused = False
        if job.status is WAITING:
            job.status = QUEUED

    @precondition(lambda self: self.jobs)
    @rule(number=ANY)
    def retry_job(self, number: int) -> None:
        """Somebody asks for a job again, often for one that has taken others along."""
        fatal = {need for job in self.jobs.values() if job.followed for need in job.needs}
        job = pick(list(self.jobs.values()), number)
        if fatal and number % 4:
            job = self.jobs[pick(sorted(fatal), number)]
        unmet = {self.jobs[need].status for need in job.needs} - {SUCCEEDED}
        if job.status not in RETRYABLE or self.doomed(job) or unmet:
            with pytest.raises(WrongStateError):
                cancel.retry_job(self.engine, self.tenant_id, job.id)
            return
        assert cancel.retry_job(self.engine, self.tenant_id, job.id) == "default"
        job.status = QUEUED
        job.max_attempts = job.attempts + RETRY_ATTEMPTS
        job.flagged = job.paused = job.solo = job.followed = False
        job.claim_id = None
        self.revive()

    @precondition(lambda self: self.campaigns)
    @rule(number=ANY)
    def cancel_campaign(self, number: int) -> None:
        """Somebody cancels a campaign; nothing has happened to its jobs yet."""
        campaign_id = pick(self.campaigns, number)
        statuses = {job.status for job in self.jobs.values() if job.campaign_id == campaign_id}
        if statuses and statuses <= FINAL and campaign_id not in self.cancelled:
            with pytest.raises(WrongStateError, match="finished"):
                cancel.cancel_campaign(self.engine, self.tenant_id, campaign_id)
            return
        assert cancel.cancel_campaign(self.engine, self.tenant_id, campaign_id)
        self.cancelled.add(campaign_id)

    @precondition(lambda self: self.campaigns)
    @rule(number=ANY, closed=st.booleans())
    def set_window(self, number: int, *, closed: bool) -> None:
        """The run window of a campaign ends, or another one begins."""
        campaign_id = pick(self.campaigns, number)
        execute(
            self.engine,
            "UPDATE campaigns SET closes_at = clock_timestamp() + make_interval(hours => :hours),"
            " reopens_at = clock_timestamp() + make_interval(secs => :wait_s) WHERE id = :id",
            wait_s=WAIT_S,
            hours=0 if closed else 1,
            id=campaign_id,
        )
        (self.closed.add if closed else self.closed.discard)(campaign_id)

    @rule()
    def hold(self) -> None:
        """A sweeper holds back what has not started when its window ended."""
        held = [job for job in self.in_status(QUEUED) if self.held_back(job)]
        wanted = {job.campaign_id for job in held}
        assert set(windows.to_hold(self.engine)) == wanted
        for campaign_id in windows.to_hold(self.engine):
            windows.hold(self.engine, campaign_id)
        for job in held:
            job.status, job.wait_s = WAITING, WAIT_S

    @rule()
    def cancel_flagged(self) -> None:
        """A sweeper cancels the jobs of all cancelled campaigns."""
        cancelled = 0
        while done := cancel.cancel_flagged(self.engine):
            cancelled += done
        affected = [
            job
            for job in self.in_status(*CANCELLABLE)
            if self.doomed(job) and not (job.status is RUNNING and job.flagged)
        ]
        assert cancelled == len(affected)
        for job in affected:
            job.flagged = True
            if job.status is not RUNNING:
                job.status = CANCELLED
        self.follow()

    @invariant()
    def the_ledger_equals_the_model(self) -> None:
        """Every job is where the model has it, and came there by an allowed way."""
        found = {row.id: row for row in rows(self.engine, JOBS)}
        assert found.keys() == self.jobs.keys()
        for job in self.jobs.values():
            row = found[job.id]
            before = self.seen.get(job.id, QUEUED)
            assert row.status == job.status
            assert job.status is before or job.status in TRANSITIONS[before]
            assert (row.attempts, row.max_attempts) == (job.attempts, job.max_attempts)
            assert (row.solo, row.claim_id) == (job.solo, job.claim_id)
            if job.status is RUNNING:
                assert (row.cancel_requested, row.pause_requested) == (job.flagged, job.paused)
            assert (row.wait_reason == "pause") == (job.status is WAITING and job.paused)
            self.seen[job.id] = job.status

    @invariant()
    def every_success_has_its_artifacts_once(self) -> None:
        """Only a holder's success has made artifacts, all of it and once."""
        found = rows(self.engine, "SELECT job_id, claim_id FROM artifacts")
        assert {tuple(row) for row in found} == self.artifacts
        assert len(found) == 2 * len(self.artifacts)

    @invariant()
    def every_model_is_there_with_its_job(self) -> None:
        """Only the first success of a name has registered its model."""
        found = rows(self.engine, "SELECT name, source FROM models")
        assert {row.name: row.source for row in found} == {
            name: f"job:{job_id}" for name, job_id in self.models.items()
        }

    @invariant()
    def the_books_are_right(self) -> None:
        """Counters equal a recount, final means finished, claims live as long as their jobs."""
        check_books(self.engine)


def test_the_ledger_equals_its_model(engine: Engine) -> None:
    """In whatever order work is submitted, claimed, ended, lost and cancelled, the books agree."""
    LedgerMachine.engine = engine
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            max_examples=50,
            stateful_step_count=50,
            deadline=None,
            derandomize=True,
            # Without Phase.explain, which would run a failure many times more.
            phases=[Phase.generate, Phase.shrink],
        ),
    )
