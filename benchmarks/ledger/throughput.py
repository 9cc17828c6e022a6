"""What a batch costs the ledger, against a row at a time; and how many transactions it takes."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from sqlalchemy import Connection, Engine, event

from benchmarks.figures import Figure, alternated, ratio, shown
from benchmarks.ground import Books, Ground, recipients
from benchmarks.ledger.crew import Shift, crew, in_batches, one_by_one, rate, two_statements
from benchmarks.ledger.scale import Scale
from jobs.services import Services
from jobs.submissions import JobSubmission, submit_job

WORKERS = 4
BATCHES = 10


def measure(ground: Ground, scale: Scale) -> Iterator[Figure]:
    """The figures of throughput."""
    with ground.books() as books:
        yield _batches(books, scale)
    with ground.books() as books, books.services() as services:
        yield _transactions(services, books)


def _batches(books: Books, scale: Scale) -> Figure:
    books.submit(recipients(scale.jobs // 2), "0" * 32)
    books.administer("VACUUM ANALYZE jobs")
    most = scale.jobs // (2 * WORKERS * scale.rounds * 3)
    with crew(WORKERS) as workers:

        def run(way: Callable[..., Shift]) -> float:
            return rate(workers.work(partial(way, books.url, seconds=scale.seconds, most=most)))

        found = alternated(
            scale.rounds,
            ours=lambda: run(in_batches),
            single=lambda: run(one_by_one),
            least=lambda: run(two_statements),
        )
    return Figure(
        "claim_finish_vs_one_row",
        ratio(found["ours"], found["single"]),
        8,
        "times the rate",
        f"{WORKERS} processes, fsync on. Batches of 16 by the ledger: "
        f"{shown(found['ours'], 'jobs/s')}; one row claimed with SKIP LOCKED, then finished, "
        f"artifact and jobs by status recorded, through the same engine and tables: "
        f"{shown(found['single'], 'jobs/s')}; two statements a job in psycopg alone, without lease "
        f"or progress: {shown(found['least'], 'jobs/s')}, which leaves "
        f"{ratio(found['ours'], found['least']):.1f} times",
        at_least=True,
    )


def _transactions(services: Services, books: Books) -> Figure:
    """Around the real runner; its heartbeat has an engine of its own here."""
    # Torch; every process of the crew would import it too, and before anything else is measured.
    from workers.family import Device  # noqa: PLC0415
    from workers.pulse import Pulse  # noqa: PLC0415
    from workers.runner import Runner  # noqa: PLC0415

    services.objects.ensure_bucket()
    settings = services.settings.model_copy(update={"batch_size": 8})
    submission = JobSubmission(kind="image", request={"prompt": "mug", "size": "64x64", "steps": 1})
    for _ in range((BATCHES + 1) * settings.batch_size):
        submit_job(services, books.tenant_id, submission)
    beats = settings.engine("benchmark pulse")
    pulse = Pulse(beats, name="bench", pool=settings.pool, device="cpu-0", every_s=10)
    pulse.start()
    runner = Runner(
        settings,
        services.engine,
        services.objects,
        pulse,
        Device("cpu"),
        name="bench",
        stopping=bool,
    )
    runner.run_next()  # loads the model
    batches = 0
    with _counted(services.engine) as begun:
        for _ in range(BATCHES):
            batches += runner.run_next()
    runner.close()
    pulse.stop()
    beats.dispose()
    return Figure(
        "transactions_per_batch",
        len(begun) / batches,
        3,
        "transactions",
        f"BEGINs of workers.runner.Runner over {batches} batches of {settings.batch_size} at most, "
        "with the model loaded, the heartbeat on an engine of its own",
    )


@contextmanager
def _counted(engine: Engine) -> Iterator[list[str]]:
    """Every transaction that the engine begins, by the name of its connection's thread."""
    begun: list[str] = []

    def note(_: Connection) -> None:
        begun.append(threading.current_thread().name)

    event.listen(engine, "begin", note)
    yield begun
    event.remove(engine, "begin", note)
