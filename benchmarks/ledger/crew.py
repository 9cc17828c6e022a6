"""Worker processes that claim and finish without making anything: the ledger's part alone."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from uuid import UUID, uuid4

import psycopg
from psycopg.types.json import Jsonb
from sqlalchemy import Engine, insert, text

from storage import counters, database
from storage.ledger import finish
from storage.ledger.finish import NewArtifact, Succeeded
from storage.lifecycle import JobStatus
from storage.tables import Artifact
from workers.turns import Turns

POOL = "default"
LEASE_S = 600.0
BATCH = 16
SHA256 = "0" * 64
FACTS = {"seed": 7, "width": 64, "height": 64, "worker": "bench", "device": "cpu"}


@dataclass(frozen=True)
class Shift:
    """What one process did: jobs finished, and when, on the host's monotonic clock."""

    jobs: int
    started_s: float
    ended_s: float


def rate(shifts: list[Shift]) -> float:
    """Jobs per second of several processes that worked at the same time."""
    span_s = max(s.ended_s for s in shifts) - min(s.started_s for s in shifts)
    return sum(s.jobs for s in shifts) / span_s


class Crew:
    """``count`` processes, kept for several rounds."""

    def __init__(self, processes: ProcessPoolExecutor, count: int) -> None:
        self._processes = processes
        self._count = count

    def work(self, task: Callable[[], Shift]) -> list[Shift]:
        """Run the task in each process at the same time."""
        futures = [self._processes.submit(task) for _ in range(self._count)]
        return [future.result() for future in futures]

    @contextmanager
    def at_work(self, task: Callable[[], Shift]) -> Iterator[None]:
        """The same while the block runs, which then waits for their end."""
        futures = [self._processes.submit(task) for _ in range(self._count)]
        yield
        for future in futures:
            future.result()


@contextmanager
def crew(count: int) -> Iterator[Crew]:
    """Processes that have nothing of ours in memory but what they import."""
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as processes:
        made = Crew(processes, count)
        made.work(partial(rest, 0.2))  # so that all are there before anything is timed
        yield made


def rest(seconds: float) -> Shift:
    """Do nothing for a while."""
    started = time.monotonic()
    time.sleep(seconds)
    return Shift(0, started, time.monotonic())


def in_batches(
    url: str,
    *,
    seconds: float,
    most: int,
    pause_s: float = 0,
    until_idle: bool = True,
    stay: bool = True,
) -> Shift:
    """Claim and finish 16 at a time until the time is up, ``most`` are done or none is left.

    A worker stays on its key while that has work, as `workers.runner` does within its time slice;
    without ``stay`` it goes on to the next one each time. Without ``until_idle`` it goes on looking
    when there is nothing, a hundred times a second.
    """
    engine = database.connect(url, application="bench", keep_plans=True)
    done = 0
    turns = turns_of(engine, stay=stay)
    with engine.connect():
        pass
    started = time.monotonic()
    while done < most and time.monotonic() - started < seconds:
        batch = turns.next()
        if batch is None:
            if until_idle:
                break
            time.sleep(0.01)
            continue
        finish.finish(
            engine,
            batch.claim_id,
            [Succeeded(job.id, [artifact(batch.claim_id, job.id)]) for job in batch.jobs],
        )
        turns.spent(batch, 0.001)
        done += len(batch.jobs)
        time.sleep(pause_s)
    ended = time.monotonic()
    engine.dispose()
    return Shift(done, started, ended)


def turns_of(engine: Engine, *, stay: bool) -> Turns:
    """A worker's turns: on a key while that has work, or on the next one with each claim."""
    return Turns(
        engine,
        worker="bench",
        pools=[POOL],
        size=lambda _: BATCH,
        lease_s=LEASE_S,
        slice_s=LEASE_S if stay else 0,
    )


def artifact(claim_id: UUID, job_id: UUID) -> NewArtifact:
    """An output as the writer would have stored it."""
    return NewArtifact(
        f"artifacts/{claim_id}/{job_id}-0-{SHA256[:16]}.png", "image/png", SHA256, 1000, FACTS
    )


def one_by_one(url: str, *, seconds: float, most: int) -> Shift:
    """The plain alternative: a row is claimed with SKIP LOCKED, later finished, and counted.

    It goes through the same engine and keeps the same books, but for a lease: an artifact, and the
    campaign's progress, spread over as many rows as the ledger's.
    """
    engine = database.connect(url, application="bench", keep_plans=True)
    done = 0
    with engine.connect():
        pass
    started = time.monotonic()
    while done < most and time.monotonic() - started < seconds:
        claim_id = uuid4()
        with engine.begin() as connection:
            job = connection.execute(_CLAIM_ONE, {"claim_id": claim_id, "pool": POOL}).first()
            if job is None:
                break
            moved = (job.campaign_id, QUEUED, RUNNING)
            counters.add(connection, claim_id, counters.moves([moved]))
        with engine.begin() as connection:
            connection.execute(_FINISH_ONE, {"id": job.id, "claim_id": claim_id})
            connection.execute(
                insert(Artifact).values(
                    tenant_id=job.tenant_id,
                    campaign_id=job.campaign_id,
                    job_id=job.id,
                    claim_id=claim_id,
                    attempt=1,
                    index=0,
                    **vars(artifact(claim_id, job.id)),
                )
            )
            moved = (job.campaign_id, RUNNING, JobStatus.SUCCEEDED)
            counters.add(connection, claim_id, counters.moves([moved]))
        done += 1
    ended = time.monotonic()
    engine.dispose()
    return Shift(done, started, ended)


_CLAIM_ONE = text(
    """
    UPDATE jobs SET status = 'running', claim_id = :claim_id, attempts = attempts + 1
    WHERE id = (SELECT id FROM jobs WHERE pool = :pool AND status = 'queued'
                ORDER BY priority, batch_key, id LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING id, tenant_id, campaign_id
    """
)
_FINISH_ONE = text(
    """
    UPDATE jobs SET status = 'succeeded', finished_at = clock_timestamp()
    WHERE id = :id AND claim_id = :claim_id AND status = 'running'
    """
)
QUEUED, RUNNING = JobStatus.QUEUED, JobStatus.RUNNING


def two_statements(url: str, *, seconds: float, most: int) -> Shift:
    """The least that could be done: two statements a job in psycopg alone, and nothing counted."""
    done = 0
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        started = time.monotonic()
        while done < most and time.monotonic() - started < seconds:
            claim_id = uuid4()
            row = connection.execute(_CLAIM_LEAST, (claim_id, POOL)).fetchone()
            if row is None:
                break
            made = artifact(claim_id, row[0])
            values = {**vars(made), "facts": Jsonb(FACTS), "id": row[0], "claim_id": claim_id}
            connection.execute(_FINISH_LEAST, values)
            done += 1
        return Shift(done, started, time.monotonic())


_CLAIM_LEAST = """
    UPDATE jobs SET status = 'running', claim_id = %s, attempts = attempts + 1
    WHERE id = (SELECT id FROM jobs WHERE pool = %s AND status = 'queued'
                ORDER BY priority, batch_key, id LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING id
"""
_FINISH_LEAST = """
    WITH finished AS (
        UPDATE jobs SET status = 'succeeded', finished_at = clock_timestamp()
        WHERE id = %(id)s AND claim_id = %(claim_id)s AND status = 'running'
        RETURNING id, tenant_id, campaign_id
    )
    INSERT INTO artifacts (tenant_id, campaign_id, job_id, claim_id, attempt, index,
                           object_key, media_type, sha256, size_bytes, facts)
    SELECT tenant_id, campaign_id, id, %(claim_id)s, 1, 0, %(object_key)s, %(media_type)s,
           %(sha256)s, %(size_bytes)s, %(facts)s FROM finished
"""
