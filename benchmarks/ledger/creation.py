"""How fast a campaign is created, against COPY, an ORM and Celery; and in what memory."""

import gc
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from celery import Celery
from sqlalchemy import text
from sqlalchemy.orm import Session

from benchmarks.figures import Figure, alternated, ratio, seconds_of, shown
from benchmarks.ground import POOL, Books, Ground, Row, recipients, write_csv
from benchmarks.ledger.memory import submit_with_templates
from benchmarks.ledger.scale import Scale
from jobs.maintenance import sweeper
from storage.tables import Job, Recipient

RECIPIENT_COLUMNS = "id, campaign_id, line, key, data"
JOB_COLUMNS = "id, tenant_id, campaign_id, creative_id, recipient_id, kind, pool, batch_key, status"
BATCH_KEY = "0" * 32


def measure(ground: Ground, scale: Scale) -> Iterator[Figure]:
    """The figures of creation."""
    with ground.books() as books:
        yield from _rates(books, ground.folder, scale)
        yield _claimable(books, ground, scale)


def _rates(books: Books, folder: Path, scale: Scale) -> Iterator[Figure]:
    rows = recipients(scale.tenth)
    of_orm = rows[: scale.few]
    write_csv(folder / "tenth.csv", scale.tenth)
    uploaded = (folder / "tenth.csv").read_bytes()
    # Every campaign here has one creative, so a recipient is two rows: itself and its job.
    with books.services() as services, steady():
        found = alternated(
            scale.rounds,
            ours=lambda: 2 * len(rows) / _ours(books, rows),
            copy=lambda: 2 * len(rows) / _copy(books),
            templates=lambda: (
                2
                * len(rows)
                / seconds_of(lambda: submit_with_templates(services, BytesIO(uploaded)))
            ),
            orm=lambda: 2 * len(of_orm) / _orm(books, of_orm),
        )
    ours, copy = found["ours"], found["copy"]
    yield Figure(
        "creation_vs_copy",
        ratio(ours, copy),
        0.8,
        "times the rate",
        f"all rows that creating a campaign of {len(rows):,} recipients makes (recipients and "
        f"jobs, with their indexes, duplicates looked for): {shown(ours, 'rows/s')}; COPY of the "
        f"very same finished rows into the same emptied tables with psycopg: "
        f"{shown(copy, 'rows/s')}; through the door, a CSV file read and a template of three "
        f"columns rendered per recipient to check it: {shown(found['templates'], 'rows/s')}, "
        f"{ratio(found['templates'], copy):.2f} of COPY",
        at_least=True,
    )
    yield Figure(
        "creation_vs_orm",
        ratio(ours, found["orm"]),
        8,
        "times the rate",
        f"as above: {shown(ours, 'rows/s')}; SQLAlchemy's Session.add_all of recipients, then of "
        f"their jobs, in one transaction ({2 * len(of_orm):,} rows): "
        f"{shown(found['orm'], 'rows/s')}",
        at_least=True,
    )


@contextmanager
def steady() -> Iterator[None]:
    """Without the garbage collector, whose turn would come in whichever side happens to run."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def _ours(books: Books, rows: list[Row]) -> float:
    books.empty()
    return seconds_of(lambda: books.submit(rows, BATCH_KEY))


def _copy(books: Books) -> float:
    """COPY the rows that `_ours` has just made."""
    with books.engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        made = [
            (table, columns, _texts(driver, table, columns))
            for table, columns in (("recipients", RECIPIENT_COLUMNS), ("jobs", JOB_COLUMNS))
        ]
        driver.rollback()
        books.empty()

        def copy_all() -> None:
            for table, columns, rows in made:
                with (
                    driver.cursor() as cursor,
                    cursor.copy(f"COPY {table} ({columns}) FROM STDIN".encode()) as copy,
                ):
                    for row in rows:
                        copy.write_row(row)
            driver.commit()

        took_s = seconds_of(copy_all)
    books.empty()
    return took_s


def _texts(driver: "psycopg.Connection[Any]", table: str, columns: str) -> list[tuple[Any, ...]]:
    """Rows as values that cost the least to write: texts and numbers."""
    query = f"COPY (SELECT {columns} FROM {table} ORDER BY id) TO STDOUT".encode()  # noqa: S608
    with driver.cursor() as cursor, cursor.copy(query) as copy:
        return list(copy.rows())


def _orm(books: Books, rows: list[Row]) -> float:
    books.empty()
    campaign_id = UUID(int=1)

    def add_all() -> None:
        with Session(books.engine) as session:
            added = [
                Recipient(campaign_id=campaign_id, line=row.line, key=row.key, data=row.row)
                for row in rows
            ]
            session.add_all(added)
            session.flush()
            session.add_all(
                Job(
                    tenant_id=books.tenant_id,
                    campaign_id=campaign_id,
                    creative_id=campaign_id,
                    recipient_id=recipient.id,
                    kind="image",
                    pool=POOL,
                    batch_key=BATCH_KEY,
                    status="queued",
                )
                for recipient in added
            )
            session.commit()

    took_s = seconds_of(add_all)
    books.empty()
    return took_s


def _claimable(books: Books, ground: Ground, scale: Scale) -> Figure:
    """Both start from the same recipients; a job of Celery's is claimable once it is sent."""
    rows = recipients(scale.few)
    write_csv(ground.folder / "few.csv", scale.few)
    uploaded = (ground.folder / "few.csv").read_bytes()
    plain = Celery("plain", broker=books.settings.broker_url)
    plain.conf.update(task_ignore_result=True, task_default_queue="plain")

    @plain.task(name="make")  # type: ignore[untyped-decorator]
    def make(**_: Any) -> None:
        """Never run: nobody consumes the queue."""

    def delay_all() -> None:
        for row in rows:
            make.delay(**row.row)

    with (
        _sweeper(books),
        books.services() as services,
        plain.connection_for_write() as connection,
    ):

        def wait(campaign_id: UUID) -> None:
            while not _is_claimable(books, campaign_id):
                time.sleep(0.002)

        found = alternated(
            scale.rounds,
            ours=lambda: seconds_of(lambda: wait(books.submit(rows, BATCH_KEY, fan_out=False))),
            door=lambda: seconds_of(
                lambda: wait(submit_with_templates(services, BytesIO(uploaded)))
            ),
            celery=lambda: seconds_of(delay_all),
            emptied=lambda: float(connection.default_channel.queue_purge("plain") or 0),
        )
    plain.close()
    return Figure(
        "claimable_vs_celery",
        ratio(found["celery"], found["ours"]),
        10,
        "times faster",
        f"{len(rows):,} jobs from ready rows, until the sweeper, which sleeps "
        f"{books.settings.sweep_s:.0f} s unless it is told, has made them claimable: "
        f"{shown(found['ours'], 's', 3)}; a loop of Celery's .delay over the same rows: "
        f"{shown(found['celery'], 's', 3)}. Through the door, a CSV file read and the templates "
        f"checked: {shown(found['door'], 's', 3)}, "
        f"{ratio(found['celery'], found['door']):.1f} times faster",
        at_least=True,
    )


@contextmanager
def _sweeper(books: Books) -> Iterator[None]:
    """The real one, as a thread."""
    stop = threading.Event()
    thread = threading.Thread(target=sweeper.run, args=(books.settings, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _is_claimable(books: Books, campaign_id: UUID) -> bool:
    with books.engine.begin() as connection:
        query = text("SELECT status = 'running' FROM campaigns WHERE id = :id")
        return bool(connection.execute(query, {"id": campaign_id}).scalar())


def measure_memory(ground: Ground, million: Books, scale: Scale) -> Figure:
    """A campaign of every size in a process of its own; the largest stays in ``million``."""
    peaks: dict[int, list[float]] = {scale.tenth: [], scale.jobs: []}
    with ground.books() as books:
        for _ in range(scale.rounds):
            peaks[scale.tenth].append(_peak_mib(books, ground.folder, scale.tenth))
    peaks[scale.jobs].append(_peak_mib(million, ground.folder, scale.jobs))
    return Figure(
        "creation_memory",
        statistics.median(peaks[scale.jobs]) / statistics.median(peaks[scale.tenth]),
        1.2,
        "times the peak",
        f"peak resident memory of a process that submits a CSV file through the door, templates "
        f"checked, and makes the jobs: {shown(peaks[scale.jobs], 'MiB')} at {scale.jobs:,} jobs, "
        f"{shown(peaks[scale.tenth], 'MiB')} at {scale.tenth:,}",
    )


def _peak_mib(books: Books, folder: Path, count: int) -> float:
    path = folder / f"{count}.csv"
    write_csv(path, count)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.ledger.memory", str(path)],
        env={**os.environ, **books.environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout)
