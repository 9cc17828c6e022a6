"""How soon an idle worker claims what it is woken for."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from sqlalchemy import Engine, text

from benchmarks.figures import Figure, percentile
from benchmarks.ground import Books, Ground
from benchmarks.ledger.scale import Scale
from jobs.processes import Program
from jobs.queue import WakeUps
from jobs.submissions import JobSubmission, submit_job
from storage import workers

TIMEOUT_S = 180
QUIET_S = 0.1
"""After a job, so that the worker is idle when the next one comes."""


class _NotedWakeUps(WakeUps):
    """Notes the server's time just before each message is published."""

    def __init__(self, broker_url: str, engine: Engine) -> None:
        super().__init__(broker_url)
        self._engine = engine
        self.sent_at: list[datetime] = []

    def send(self, pool: str, count: int = 1) -> bool:
        """Publish, a little later."""
        with self._engine.begin() as connection:
            self.sent_at.append(connection.execute(text("SELECT clock_timestamp()")).scalar_one())
        return super().send(pool, count)


def measure(ground: Ground, scale: Scale) -> Iterator[Figure]:
    """The figure of waking up."""
    with ground.books() as books:
        books.log_claims()
        with _worker(ground, books):
            yield _wake_ups(books, 50 if scale.full else 3)


@contextmanager
def _worker(ground: Ground, books: Books) -> Iterator[None]:
    """A worker as the supervisor of a host starts it, which looks at nothing but its wake-ups."""
    books.settings.objects().ensure_bucket()
    supervisor = ground.servers.supervisor
    child = supervisor.start(
        Program(
            name="worker",
            command=[sys.executable, "-m", "workers.main", "--slot", "cpu-0"],
            log=ground.folder / "logs" / "worker.log",
            environment={
                **books.environment,
                "PRESSWORK_IDLE_LOOK_S": "3600",
                "OMP_NUM_THREADS": "1",
            },
            stage=1,
        )
    )
    try:
        _wait(lambda: bool(workers.live(books.engine, within_s=60)), "the worker")
        yield
    finally:
        supervisor.drop(child)


def _wake_ups(books: Books, times: int) -> Figure:
    with books.services() as services:
        noted = _NotedWakeUps(books.settings.broker_url, books.engine)
        door = replace(services, wake_ups=noted)
        submission = JobSubmission(
            kind="image", request={"prompt": "mug", "size": "64x64", "steps": 1}
        )
        from_send, from_insert = [], []
        for _ in range(times + 1):  # the first one loads the model
            job_id = submit_job(door, books.tenant_id, submission)
            _wait(lambda id_=job_id: _is_over(books, id_), "a job")  # type: ignore[misc]
            time.sleep(QUIET_S)
            claimed_at, created_at = _times(books, job_id)
            from_send.append((claimed_at - noted.sent_at[-1]).total_seconds() * 1000)
            from_insert.append((claimed_at - created_at).total_seconds() * 1000)
        noted.close()
    sent, inserted = from_send[1:], from_insert[1:]
    return Figure(
        "wake_up_to_claim_p50",
        percentile(sent, 50),
        25,
        "ms",
        f"p50 of {times} jobs submitted one by one to an idle worker process that does not look by "
        f"itself: from just before the message is published to the claim, by the server's clock; "
        f"p95 {percentile(sent, 95):.1f} ms. From the insertion of the job: p50 "
        f"{percentile(inserted, 50):.1f} ms, p95 {percentile(inserted, 95):.1f} ms",
    )


def _is_over(books: Books, job_id: UUID) -> bool:
    with books.engine.begin() as connection:
        query = text("SELECT status = 'succeeded' FROM jobs WHERE id = :id")
        return bool(connection.execute(query, {"id": job_id}).scalar())


def _times(books: Books, job_id: UUID) -> tuple[datetime, datetime]:
    with books.engine.begin() as connection:
        row = connection.execute(
            text(
                """
                SELECT at, created_at FROM jobs JOIN claims_made ON claims_made.id = jobs.claim_id
                WHERE jobs.id = :id
                """
            ),
            {"id": job_id},
        ).one()
        return row.at, row.created_at


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: nothing in {TIMEOUT_S} s")
        time.sleep(0.01)
