"""The claim and the sweeper's pass over a full queue of many batch keys that has been worked on."""

import statistics
from collections.abc import Iterator
from functools import partial

from sqlalchemy import text

from benchmarks.figures import Figure, percentile, seconds_of, shown, timed
from benchmarks.ground import Books, Ground, recipients
from benchmarks.ledger.crew import crew, in_batches, turns_of
from benchmarks.ledger.reading import total_bytes
from benchmarks.ledger.scale import Scale
from jobs.maintenance.sweeper import SERVICES
from workers.turns import Turns

WORKERS = 4
JOBS_A_KEY = 200
CREATIVES = 100
PASSES = 7


def measure(ground: Ground, scale: Scale) -> Iterator[Figure]:
    """The figures of a queue that is full and has been churned."""
    with ground.books() as books:
        keys = _fill(books, scale)
        full_bytes = total_bytes(books.engine, "jobs")
        with crew(WORKERS) as workers:
            # In turn, so that every key has entries of jobs that are done at its head.
            most = scale.churned // WORKERS
            workers.work(partial(in_batches, books.url, seconds=600, most=most, stay=False))
        yield _claims(books, scale, keys)
        yield _sweeper(books, scale)
        yield _growth(books, scale, full_bytes)


def _fill(books: Books, scale: Scale) -> int:
    """Queue the jobs that are to stay and those that will be churned; how many keys they have."""
    jobs = scale.jobs + scale.churned
    keys = max(scale.jobs // JOBS_A_KEY, 4)
    creatives = min(CREATIVES, keys)
    campaigns = keys // creatives
    rows = recipients(-(-jobs // keys))
    for number in range(campaigns):
        names = [f"{number * creatives + n:032x}"[::-1] for n in range(creatives)]
        books.submit(rows, *names)
    return campaigns * creatives


def _claims(books: Books, scale: Scale, keys: int) -> Figure:
    turns: list[float] = []
    stays: list[float] = []
    goes_on = turns_of(books.engine, stay=False)
    stays_on = turns_of(books.engine, stay=True)
    for _ in range(scale.rounds):
        in_turn: list[float] = []
        staying: list[float] = []
        for _ in range(keys // scale.rounds):
            _claim(goes_on, in_turn)
            _claim(stays_on, staying)
        turns.append(percentile(in_turn, 99))
        stays.append(percentile(staying, 99))
    with books.engine.begin() as connection:
        vacuums = connection.execute(
            text("SELECT autovacuum_count FROM pg_stat_user_tables WHERE relname = 'jobs'")
        ).scalar_one()
    return Figure(
        "claim_p99",
        statistics.median(turns),
        20,
        "ms",
        f"p99 of a claim of 16 that goes on to the next key each time, once to each of {keys:,} "
        f"keys of {scale.jobs:,} queued jobs, after {scale.churned:,} at their heads were claimed "
        f"and finished, autovacuum on (it came {vacuums} times): {shown(turns, 'ms', 1)}; of a "
        f"claim that stays on its key: {shown(stays, 'ms', 1)}",
    )


def _claim(turns: Turns, took_ms: list[float]) -> None:
    """Claim, and note how long it took."""
    with timed() as took_s:
        turns.next()
    took_ms.append(took_s() * 1000)


def _sweeper(books: Books, scale: Scale) -> Figure:
    took_ms: dict[str, list[float]] = {name: [] for name in SERVICES}
    sums = []
    with books.services() as services:
        for _ in range(PASSES):
            for name, service in SERVICES.items():
                run = partial(service, services, float("inf"))
                took_ms[name].append(seconds_of(run) * 1000)
            sums.append(sum(values[-1] for values in took_ms.values()))
    parts = ", ".join(f"{name} {statistics.median(ms):.1f}" for name, ms in took_ms.items())
    return Figure(
        "sweeper_pass",
        statistics.median(sums),
        100,
        "ms",
        f"each of the sweeper's services once, one after the other, with {scale.jobs:,} queued and "
        f"{scale.churned:,} churned: {shown(sums, 'ms', 1)}; medians in ms: {parts}",
    )


def _growth(books: Books, scale: Scale, full_bytes: int) -> Figure:
    """Each job that is done has left two dead rows, and entries in every index but partial ones."""
    with books.engine.begin() as connection:
        counters = connection.execute(
            text(
                """
                SELECT n_tup_hot_upd, n_tup_upd, pg_total_relation_size(relid) AS bytes
                FROM pg_stat_user_tables WHERE relname = 'campaign_counters'
                """
            )
        ).one()
    now_bytes = total_bytes(books.engine, "jobs")
    in_place = counters.n_tup_hot_upd / max(counters.n_tup_upd, 1)
    return Figure(
        "growth_by_churn",
        now_bytes / full_bytes,
        1.5,
        "times the size",
        f"the jobs table with its indexes: {full_bytes / 2**20:.0f} MiB when filled, "
        f"{now_bytes / 2**20:.0f} MiB after {scale.churned:,} of its jobs were claimed and "
        f"finished. Counters: {counters.n_tup_upd:,} updates, {in_place:.0%} in place (HOT), "
        f"{counters.bytes / 2**20:.1f} MiB",
    )
