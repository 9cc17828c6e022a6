"""What the ledger's tests are made of: work to submit, ways to end it, and faults to inject."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from sqlalchemy import Connection, Engine, Row, event, text

from storage import counters
from storage.ledger import fanout, finish, submit
from storage.ledger.claim import Batch
from storage.ledger.finish import Failed, NewArtifact, Outcome, Released, Succeeded
from storage.ledger.submit import NewCampaign, NewCreative, NewJob
from storage.lifecycle import FINAL, JobStatus
from storage.models import ModelCard
from storage.tables import Job
from workers.turns import Turns

POOL = "default"
LEASE_S = 60.0
"""Longer than any test takes: leases end when a test says so."""
LIMIT_S = 30.0
"""How long a test waits for another thread before it has failed."""

_COLUMNS = [column.name for column in Job.__table__.columns if column.name != "available_at"]
# Of a job that waits for a need, or is paused, it is beyond what Python knows.
_TIME = "nullif(available_at, 'infinity') AS available_at"
JOBS = f"SELECT {', '.join(_COLUMNS)}, {_TIME} FROM jobs"  # noqa: S608 (our own words)
"""All that SQL knows about jobs."""

T = TypeVar("T")


@dataclass(frozen=True)
class RecipientCase:
    """One row of a campaign's data."""

    key: str
    line: int
    row: dict[str, Any] = field(default_factory=dict)


def recipient_rows(count: int) -> Iterator[RecipientCase]:
    """Recipients ``r0``, ``r1``, ... on lines 1, 2, ..."""
    for number in range(count):
        yield RecipientCase(f"r{number}", number + 1, {"number": number})


def new_job(tenant_id: UUID, batch_key: str = "a", **changes: Any) -> NewJob:
    """A job that any worker of the pool could run."""
    values = {"kind": "image", "pool": POOL, "request": {"prompt": "mug"}, **changes}
    return NewJob(tenant_id=tenant_id, batch_key=batch_key, **values)


def submit_jobs(
    engine: Engine, tenant_id: UUID, count: int, batch_key: str = "a", **changes: Any
) -> list[UUID]:
    """Queue ``count`` single jobs, and give their ids in order of age."""
    job = new_job(tenant_id, batch_key, **changes)
    return [submit.submit_job(engine, job) for _ in range(count)]


def new_campaign(tenant_id: UUID, *batch_keys: str, **changes: Any) -> NewCampaign:
    """A campaign with one creative per batch key: ``a``, or those given."""
    creatives = [
        new_creative(f"creative{number}", key) for number, key in enumerate(batch_keys or ["a"])
    ]
    return NewCampaign(tenant_id, "Test", creatives, **changes)


def new_creative(name: str, batch_key: str, *needs: str) -> NewCreative:
    """One thing to make for each recipient, from what those it needs make."""
    return NewCreative(name, "image", POOL, batch_key, {"prompt": "mug"}, needs)


def submit_campaign(engine: Engine, tenant_id: UUID, recipients: int, *batch_keys: str) -> UUID:
    """Submit a campaign and make its jobs."""
    campaign = new_campaign(tenant_id, *batch_keys)
    campaign_id = submit.submit_campaign(engine, campaign, recipient_rows(recipients))
    fan_out(engine)
    return campaign_id


def fan_out(engine: Engine) -> dict[UUID, int]:
    """Run the fan-out until nothing waits for it; jobs made, by campaign."""
    return {done.campaign_id: done.jobs for done in fanout.fan_out(engine)}


def take(
    engine: Engine,
    size: int = 100,
    *,
    pool: str = POOL,
    prefer: str | None = None,
    after: str | None = None,
    lease_s: float = LEASE_S,
) -> Batch | None:
    """Claim as a worker does that stays on the key ``prefer``, or comes from ``after``."""
    key = prefer or after
    turns = Turns(
        engine,
        worker="tester",
        pools=[pool],
        size=lambda _: size,
        lease_s=lease_s,
        slice_s=LEASE_S if prefer else 0,
        came_from=(pool, key) if key else None,
    )
    return turns.next()


def take_some(engine: Engine, size: int = 100, *, prefer: str | None = None) -> Batch:
    """Claim where there is work."""
    batch = take(engine, size, prefer=prefer)
    assert batch is not None
    return batch


def ids(batch: Batch) -> list[UUID]:
    """The batch's jobs, in its order."""
    return [job.id for job in batch.jobs]


def made(job_id: UUID, by: str = "x", outputs: int = 1) -> Succeeded:
    """A success with outputs; ``by`` keeps the object keys of two makers apart."""
    return Succeeded(
        job_id,
        [
            NewArtifact(f"{by}/{job_id}-{index}", "image/png", "0" * 64, 7, {"seed": index})
            for index in range(outputs)
        ],
    )


def trained(job_id: UUID, tenant_id: UUID, name: str, by: str = "x") -> Succeeded:
    """A success that has made a model of the tenant's, with two outputs beside it."""
    card = ModelCard(name, "diffusion", "image", f"job:{job_id}", "MIT", tenant_id=tenant_id)
    return replace(made(job_id, by, outputs=2), registers=card)


def broken(job_id: UUID, *, retry: bool) -> Failed:
    """A failure."""
    return Failed(job_id, "broken", "it broke", retry)


def finish_all(
    engine: Engine, batch: Batch, outcome: Callable[[UUID], Outcome] = made
) -> dict[UUID, JobStatus]:
    """Finish the whole batch with the same outcome."""
    return finish.finish(engine, batch.claim_id, [outcome(job_id) for job_id in ids(batch)])


def release_all(engine: Engine, batch: Batch) -> dict[UUID, JobStatus]:
    """Give the whole batch back."""
    return finish_all(engine, batch, Released)


def expire(engine: Engine, claim_id: UUID) -> None:
    """Let the lease have ended a second ago."""
    # Of length 0, since the server may have been up for less than the lease.
    execute(
        engine,
        "UPDATE claims SET lease_until = clock_timestamp() - interval '1 s', lease_s = 0"
        " WHERE id = :id",
        id=claim_id,
    )


def let_wait_end(engine: Engine) -> None:
    """Let the time of every job have come that waits for a time."""
    execute(
        engine,
        "UPDATE jobs SET available_at = clock_timestamp()"
        " WHERE status = 'waiting' AND wait_reason NOT IN ('need', 'pause')",
    )


def execute(engine: Engine, sql: str, **values: Any) -> None:
    """Run one statement in a transaction of its own."""
    with engine.begin() as connection:
        connection.execute(text(sql), values)


def rows(engine: Engine, sql: str, **values: Any) -> Sequence[Row[Any]]:
    """The answer to one query."""
    with engine.begin() as connection:
        return connection.execute(text(sql), values).all()


def value(engine: Engine, sql: str, **values: Any) -> Any:
    """The one value that a query answers with."""
    [[only]] = rows(engine, sql, **values)
    return only


def job_row(engine: Engine, job_id: UUID) -> Row[Any]:
    """All that SQL knows about a job."""
    [row] = rows(engine, f"{JOBS} WHERE id = :id", id=job_id)
    return row


def statuses(engine: Engine, *job_ids: UUID) -> list[JobStatus]:
    """The status of each job: of those given in their order, or of all in order of age."""
    found = {row.id: JobStatus(row.status) for row in rows(engine, "SELECT id, status FROM jobs")}
    return [found[job_id] for job_id in job_ids or sorted(found)]


def campaign_jobs(engine: Engine, campaign_id: UUID) -> list[UUID]:
    """The campaign's jobs, in the order of their ids."""
    found = rows(engine, "SELECT id FROM jobs WHERE campaign_id = :id ORDER BY id", id=campaign_id)
    return [row.id for row in found]


def counts(engine: Engine, campaign_id: UUID) -> dict[JobStatus, int]:
    """The campaign's counters without zeros, after checking them against a recount."""
    with engine.begin() as connection:
        kept = counters.read(connection, campaign_id)
        assert kept == counters.recount(connection, campaign_id)
    return {status: jobs for status, jobs in kept.items() if jobs}


def check_books(engine: Engine) -> None:
    """Whatever has happened, this holds."""
    for campaign in rows(engine, "SELECT id FROM campaigns"):
        counts(engine, campaign.id)
    made_by = Counter(row.job_id for row in rows(engine, "SELECT job_id FROM artifacts"))
    claims = {row.id for row in rows(engine, "SELECT id FROM claims")}
    held = set()
    for job in rows(engine, JOBS):
        assert (job.finished_at is not None) == (job.status in FINAL)
        assert bool(made_by[job.id]) == (job.status == JobStatus.SUCCEEDED)
        assert 0 <= job.attempts <= job.max_attempts
        if job.status == JobStatus.RUNNING:
            held.add(job.claim_id)
    assert held == claims, "a claim lives exactly as long as it has running jobs"
    for job in rows(
        engine,
        "SELECT jobs.id, status, wait_reason, array("
        " SELECT need.status FROM job_needs JOIN jobs AS need ON need.id = need_id"
        " WHERE job_id = jobs.id) AS needs FROM jobs"
        " WHERE id IN (SELECT job_id FROM job_needs)",
    ):
        unmet = set(job.needs) - {JobStatus.SUCCEEDED}
        waits = job.wait_reason == "need"
        assert waits == bool(unmet) or job.status in FINAL, "it waits for as long as it has to"
        assert not (waits and unmet & FINAL), "nothing waits for what has ended badly"


def together(*calls: Callable[[], T]) -> list[T]:
    """Run all at the same moment, a thread each, and give what they return."""
    barrier = threading.Barrier(len(calls), timeout=LIMIT_S)

    def run(call: Callable[[], T]) -> T:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return [future.result(LIMIT_S) for future in [threads.submit(run, call) for call in calls]]


@contextmanager
def at_statement(engine: Engine, part: str, act: Callable[[Connection], None]) -> Iterator[None]:
    """Do ``act`` once, just before a statement that holds ``part`` goes to the server."""
    done = False

    def look(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal done
        if not done and part in statement:
            done = True
            act(connection)

    with listening(engine, "before_cursor_execute", look):
        yield
    assert done, f"no statement held {part!r}"


@contextmanager
def at_commit(engine: Engine, act: Callable[[Connection], None]) -> Iterator[None]:
    """Do ``act`` once, just before COMMIT goes to the server."""
    done = False

    def look(connection: Connection) -> None:
        nonlocal done
        if not done:
            done = True
            act(connection)

    with listening(engine, "commit", look):
        yield
    assert done, "no COMMIT"


@contextmanager
def listening(engine: Engine, name: str, listener: Callable[..., None]) -> Iterator[None]:
    """Call ``listener`` at SQLAlchemy's event ``name``."""

    def limit_waits(connection: Connection) -> None:
        # A listener that waits for the very transaction that called it fails, and does not hang.
        connection.exec_driver_sql("SET LOCAL lock_timeout = '5s'")

    event.listen(engine, "begin", limit_waits)
    event.listen(engine, name, listener)
    try:
        yield
    finally:
        event.remove(engine, name, listener)
        event.remove(engine, "begin", limit_waits)


def lose_commit_answer(connection: Connection) -> None:
    """For `at_commit`: the server commits, and the client loses it before it hears so."""
    connection_of(connection).commit()
    connection_of(connection).close()


def lose_commit(connection: Connection) -> None:
    """For `at_commit`: the connection is lost before COMMIT reaches the server."""
    connection_of(connection).close()


def terminate(engine: Engine) -> Callable[[Connection], None]:
    """For `at_statement` and `at_commit`: the server ends the session that is at work."""

    def act(connection: Connection) -> None:
        pid = connection_of(connection).info.backend_pid
        assert value(engine, "SELECT pg_terminate_backend(:pid, 5000)", pid=pid)

    return act


def connection_of(connection: Connection) -> psycopg.Connection[Any]:
    """The driver's connection beneath SQLAlchemy's."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver


@contextmanager
def no_errors(engine: Engine) -> Iterator[None]:
    """The server refused no statement, not even one that was tried again with success."""
    errors: list[BaseException] = []

    def note(context: Any) -> None:
        errors.append(context.original_exception)

    with listening(engine, "handle_error", note):
        yield
    assert not errors, errors


def wait_until_blocked(engine: Engine, by: int) -> None:
    """Return as soon as some session waits for a lock that the backend ``by`` holds."""
    deadline = time.monotonic() + LIMIT_S
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND :by = ANY(pg_blocking_pids(pid))"
    while not value(engine, waits, by=by):
        assert time.monotonic() < deadline, "nobody waits"
