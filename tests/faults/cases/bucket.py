"""S3 refuses, dawdles, cuts connections, loses a part, or stores and does not say so."""

from collections.abc import Callable
from functools import partial

from tests.faults.trial import Case, Trial
from tests.s3_proxy import S3Proxy

FEW = 6
"""More than boto3 tries by itself for one object."""
ENDLESS = 1_000_000
IN_PARTS_FROM_BYTES = 1024


def misbehaves(trial: Trial, how: Callable[[S3Proxy], None], more_puts: int = 1) -> None:
    """The outputs of a batch meet a bucket that is not well for a while.

    ``more_puts``: by how many requests at least the fault shows, beyond one per output.
    """
    trial.order("before-put", "note")
    before = _puts(trial)
    for proxies in trial.house.proxies.values():
        how(proxies.s3)
    try:
        trial.submit()
        trial.done("before-put")
        trial.until(trial.ended, "the jobs are done")
    finally:
        _be_well(trial)
    puts = _puts(trial) - before
    assert puts >= len(trial.job_ids) + more_puts, f"{puts} PUTs: the fault hit nobody"
    trial.check_no_attempt_lost()


def loses_a_part(trial: Trial) -> None:
    """A part of an upload is acknowledged and not kept: the upload fails, and is done again."""
    trial.house.orders.stand("parts", from_bytes=IN_PARTS_FROM_BYTES)
    misbehaves(trial, lambda s3: s3.lose_parts(2))


def is_away_for_long(trial: Trial) -> None:
    """Beyond all patience the jobs go back, cost no attempt, and are done when it is well again."""
    for proxies in trial.house.proxies.values():
        proxies.s3.refuse_puts(ENDLESS)
    try:
        trial.order("finishing", "note")
        trial.submit()
        trial.done("finishing")
        trial.until(
            lambda: trial.value(
                "SELECT count(*) FROM jobs WHERE id = ANY(:ids) AND status = 'queued'"
                " AND attempts = 0"
            ),
            "jobs were given back",
        )
    finally:
        _be_well(trial)
    trial.fault_at = trial.now()  # its end
    trial.until(trial.ended, "the jobs are done once the bucket is well")
    trial.check_no_attempt_lost()


def _puts(trial: Trial) -> int:
    return sum(
        request.startswith("PUT ") and "/artifacts/" in request
        for proxies in trial.house.proxies.values()
        for request in proxies.s3.seen
    )


def _be_well(trial: Trial) -> None:
    for proxies in trial.house.proxies.values():
        proxies.s3.behave()


CASES: dict[str, Case] = {
    "s3-answers-503": partial(misbehaves, how=lambda s3: s3.refuse_puts(FEW)),
    "s3-is-slow": partial(misbehaves, how=lambda s3: s3.delay_answers(0.5), more_puts=0),
    "s3-cuts-a-put": partial(misbehaves, how=lambda s3: s3.cut_puts(FEW)),
    "s3-stores-and-does-not-say": partial(misbehaves, how=lambda s3: s3.cut_answers(FEW)),
    "s3-loses-a-part": loses_a_part,
    "s3-away-for-long": is_away_for_long,
}
