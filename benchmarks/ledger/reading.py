"""How long callers wait for an answer, at a million jobs and at few."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from uuid import UUID

from sqlalchemy import Engine, text

from benchmarks.figures import (
    Figure,
    alternated,
    percentile,
    ratio,
    seconds_of,
    shown,
)
from benchmarks.ground import Books
from benchmarks.ledger.crew import crew, in_batches
from benchmarks.ledger.scale import Scale
from storage import views

WORKERS = 2
PAUSE_S = 0.05
"""Between two batches of a worker, so that both databases see the same work."""


@dataclass(frozen=True)
class _Side:
    """A database with one campaign."""

    books: Books
    campaign_id: UUID
    job_ids: Iterator[UUID]
    """At random, each of them once before any comes again."""

    def status(self) -> None:
        with self.books.engine.begin() as connection:
            assert views.campaign(connection, self.books.tenant_id, self.campaign_id)

    def job(self) -> None:
        with self.books.engine.begin() as connection:
            assert views.job(connection, self.books.tenant_id, next(self.job_ids))


def _side(books: Books, questions: int) -> _Side:
    with books.engine.begin() as connection:
        campaign_id = connection.execute(text("SELECT id FROM campaigns")).scalar_one()
        found = connection.execute(
            text("SELECT id FROM jobs ORDER BY random() LIMIT :n"), {"n": questions}
        )
        return _Side(books, campaign_id, cycle(found.scalars().all()))


def measure(million: Books, few: Books, scale: Scale) -> Iterator[Figure]:
    """The figures of reading; each database holds one campaign."""
    questions = 2 * scale.samples * scale.rounds
    sides = {"million": _side(million, questions), "few": _side(few, questions)}
    yield _campaign_status(sides, scale)
    yield _job_status(sides, scale)


def _campaign_status(sides: dict[str, _Side], scale: Scale) -> Figure:
    def median_ms(side: _Side) -> float:
        task = partial(
            in_batches, side.books.url, seconds=scale.seconds / 2, most=10**9, pause_s=PAUSE_S
        )
        with workers.at_work(task):
            return percentile(_latencies_ms(side.status, scale.samples // 4), 50)

    with crew(WORKERS) as workers:
        found = alternated(
            scale.rounds,
            million=lambda: median_ms(sides["million"]),
            few=lambda: median_ms(sides["few"]),
        )
    return Figure(
        "campaign_status_latency",
        ratio(found["million"], found["few"]),
        1.5,
        "times the latency",
        f"median of views.campaign while {WORKERS} workers finish batches: "
        f"{shown(found['million'], 'ms', 2)} at {scale.jobs:,} jobs, "
        f"{shown(found['few'], 'ms', 2)} at {scale.few:,}",
    )


def _latencies_ms(call: Callable[[], None], samples: int) -> list[float]:
    return [seconds_of(call) * 1000 for _ in range(samples)]


def _job_status(sides: dict[str, _Side], scale: Scale) -> Figure:
    """One question to each in turn, so that both meet the same machine."""
    tails: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(scale.rounds):
        took_ms: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(scale.samples * 2):
            for name, side in sides.items():
                took_ms[name].append(seconds_of(side.job) * 1000)
        for name, values in took_ms.items():
            tails[name].append(percentile(values, 99))
    return Figure(
        "job_status_p99",
        ratio(tails["million"], tails["few"]),
        1.5,
        "times the latency",
        f"p99 of views.job, {scale.samples * 2:,} questions a round, each for another random id, "
        f"alternating: "
        f"{shown(tails['million'], 'ms', 2)} at {scale.jobs:,} jobs, "
        f"{shown(tails['few'], 'ms', 2)} at {scale.few:,}",
    )


def total_bytes(engine: Engine, table: str) -> int:
    """A table with its indexes."""
    with engine.begin() as connection:
        query = text("SELECT pg_total_relation_size(to_regclass(:table))")
        return int(connection.execute(query, {"table": table}).scalar_one())
