"""Cancelling a campaign of a million queued jobs while workers are at it."""

import time
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from uuid import UUID

from sqlalchemy import text

from benchmarks.figures import Figure, seconds_of
from benchmarks.ground import Books, recipients
from benchmarks.ledger.crew import crew, in_batches
from benchmarks.ledger.scale import Scale
from storage.ledger import cancel

WORKERS = 2


def measure(books: Books, scale: Scale) -> Iterator[Figure]:
    """The figures of a cancel; the database holds one campaign, of which most is queued."""
    with books.engine.begin() as connection:
        campaign = connection.execute(text("SELECT id FROM campaigns")).scalar_one()
        key, queued = connection.execute(
            text(
                """
                SELECT min(batch_key), count(*) FROM jobs
                WHERE campaign_id = :id AND status = 'queued'
                """
            ),
            {"id": campaign},
        ).one()
    other = books.submit(recipients(scale.few), str(key))  # behind it, in the same key
    books.log_claims()
    with crew(WORKERS) as workers:
        task = partial(in_batches, books.url, seconds=scale.seconds, most=10**9, until_idle=False)
        with workers.at_work(task):
            time.sleep(scale.seconds / 4)
            answer_s = seconds_of(
                lambda: cancel.cancel_campaign(books.engine, books.tenant_id, campaign)
            )
            answered_at = _now(books)
            swept_s = seconds_of(lambda: _sweep(books))
    last = _claimed_at(books, campaign, "max")
    first = _claimed_at(books, other, "min")
    others_s = (first - answered_at).total_seconds() if first else float("nan")
    starts_s = max((last - answered_at).total_seconds(), 0.0) if last else 0.0
    yield Figure(
        "cancel_answer",
        answer_s,
        0.2,
        "s",
        f"cancel_campaign of {queued:,} queued jobs while {WORKERS} workers claim from it; once",
    )
    yield Figure(
        "cancel_nothing_starts",
        starts_s,
        2,
        "s",
        f"from the answer to the last claim of one of its jobs, by the server's clock. The sweeper "
        f"cancelled all of them within {swept_s:.1f} s; the first job of another campaign, behind "
        f"them in the same batch key, was claimed {others_s:.2f} s after the answer",
    )


def _now(books: Books) -> datetime:
    with books.engine.begin() as connection:
        now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        return now


def _sweep(books: Books) -> None:
    while cancel.cancel_flagged(books.engine):
        pass


def _claimed_at(books: Books, campaign_id: UUID, which: str) -> datetime | None:
    with books.engine.begin() as connection:
        at: datetime | None = connection.execute(
            text(
                f"""
                SELECT {which}(at) FROM claims_made
                JOIN jobs ON jobs.claim_id = claims_made.id WHERE jobs.campaign_id = :id
                """  # noqa: S608
            ),
            {"id": campaign_id},
        ).scalar()
        return at
