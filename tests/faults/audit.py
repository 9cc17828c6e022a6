"""What really happened to the jobs, by a trigger that no code of ours knows of.

The trigger notes every UPDATE that names ``status``, also one that sets the same value again. The
UNIQUE constraint on artifacts is dropped in the suite's database: it could turn a doubled finish
into an error that looks like none.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, Row, text

from storage import counters
from storage.lifecycle import FINAL, JobStatus
from storage.objects import ObjectMissingError, ObjectStore, sha256_hex

_INSTALL = """
    ALTER TABLE artifacts DROP CONSTRAINT uq_artifacts_job_id_index;
    CREATE INDEX ON artifacts (job_id);
    CREATE TABLE faults_audit (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        at timestamptz NOT NULL DEFAULT clock_timestamp(),
        job_id uuid NOT NULL,
        before text NOT NULL,
        after text NOT NULL,
        claim_id uuid
    );
    CREATE INDEX ON faults_audit (job_id);
    CREATE FUNCTION faults_note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO faults_audit (job_id, before, after, claim_id)
        VALUES (NEW.id, OLD.status, NEW.status, coalesce(NEW.claim_id, OLD.claim_id));
        RETURN NULL;
    END $$;
    CREATE TRIGGER faults_note AFTER UPDATE OF status ON jobs
        FOR EACH ROW EXECUTE FUNCTION faults_note();
"""


def install(engine: Engine) -> None:
    """From now on every transition is noted."""
    with engine.begin() as connection:
        connection.exec_driver_sql(_INSTALL)


RECOVERY_LIMIT_S = 45.0


@dataclass(frozen=True)
class Finding:
    """What one trial has shown; all counts but jobs and wasted generations must be 0.

    ``lost``: jobs that have no row, ended otherwise than they had to, or succeeded without an
    artifact. ``doubled``: transitions into a final state, and artifacts of one index, beyond the
    first of each job. ``unfinished``: not final when the trial's time was over.
    ``counter_drift``: how far the campaigns' counters are from a recount. ``sha_mismatch``:
    artifacts whose object is missing or has other bytes. ``orphans``: objects of the trial's
    claims to which nothing refers. ``wasted_generations``: starts of a job that did not end it.
    ``recovery_s``: from the fault (from its end, where it lasts) until the last job that was
    not final then was so; None where the trial has no such moment, or no such job.
    """

    jobs: int
    lost: int
    doubled: int
    unfinished: int
    counter_drift: int
    sha_mismatch: int
    orphans: int
    wasted_generations: int
    recovery_s: float | None
    problem: str | None = None
    """What a case has seen besides, or why it could not be run to its end."""

    @property
    def broken(self) -> bool:
        """Whether what must never happen has happened."""
        return any(
            (
                (self.recovery_s or 0) > RECOVERY_LIMIT_S,
                self.lost,
                self.doubled,
                self.unfinished,
                self.counter_drift,
                self.sha_mismatch,
                self.orphans,
                self.problem,
            )
        )


def examine(
    engine: Engine,
    bucket: ObjectStore,
    expected: dict[UUID, frozenset[JobStatus]],
    campaigns: Sequence[UUID],
    fault_at: float | None,
) -> Finding:
    """The finding about the jobs in ``expected``, each with the states in which it may end."""
    with engine.begin() as connection:
        jobs = {row.id: row for row in _rows(connection, _JOBS, expected)}
        noted = _rows(connection, _NOTED, expected)
        artifacts = _rows(connection, _ARTIFACTS, expected)
        drift = sum(_drift(connection, campaign_id) for campaign_id in campaigns)
    made = Counter((row.job_id, row.number) for row in artifacts)
    finals = Counter(row.job_id for row in noted if row.after in FINAL)
    starts = sum(row.after == JobStatus.RUNNING for row in noted)
    ended = sum(row.before == JobStatus.RUNNING and row.after in FINAL for row in noted)
    unfinished = sum(row.status not in FINAL for row in jobs.values())
    return Finding(
        jobs=len(expected),
        lost=sum(_is_lost(jobs.get(job_id), ends, made) for job_id, ends in expected.items()),
        doubled=sum(n - 1 for n in finals.values()) + sum(n - 1 for n in made.values()),
        unfinished=unfinished,
        counter_drift=drift,
        sha_mismatch=sum(not _is_whole(bucket, row) for row in artifacts),
        orphans=sum(1 for _ in unreferenced(bucket, noted, artifacts)),
        wasted_generations=max(starts - ended, 0),
        recovery_s=None if fault_at is None or unfinished else _recovery_s(noted, fault_at),
    )


_JOBS = "SELECT id, status FROM jobs WHERE id = ANY(:ids)"
_NOTED = """
    SELECT extract(epoch FROM at)::float8 AS at, job_id, before, after, claim_id
    FROM faults_audit WHERE job_id = ANY(:ids) ORDER BY number
"""
_ARTIFACTS = """
    SELECT job_id, index AS number, object_key, sha256 FROM artifacts WHERE job_id = ANY(:ids)
"""


def _rows(connection: Connection, query: str, expected: dict[UUID, Any]) -> Sequence[Row[Any]]:
    return connection.execute(text(query), {"ids": list(expected)}).all()


def _is_lost(
    job: Row[Any] | None, ends: frozenset[JobStatus], made: Counter[tuple[UUID, int]]
) -> bool:
    if job is None:
        return True
    if job.status not in FINAL:
        return False  # counted as unfinished
    without = job.status == JobStatus.SUCCEEDED and not made[job.id, 0]
    return job.status not in ends or without


def _drift(connection: Connection, campaign_id: UUID) -> int:
    kept = counters.read(connection, campaign_id)
    counted = counters.recount(connection, campaign_id)
    return sum(abs(kept[status] - counted[status]) for status in JobStatus)


def _is_whole(bucket: ObjectStore, artifact: Row[Any]) -> bool:
    try:
        return bool(sha256_hex(bucket.get(artifact.object_key)) == artifact.sha256)
    except ObjectMissingError:
        return False


def unreferenced(
    bucket: ObjectStore, noted: Sequence[Row[Any]], artifacts: Sequence[Row[Any]]
) -> list[str]:
    """The objects below the claims that ever held a job, without those of artifacts."""
    referenced = {row.object_key for row in artifacts}
    claims = {row.claim_id for row in noted if row.claim_id}
    jobs = {str(row.job_id) for row in noted}
    return [
        key
        for claim_id in claims
        for key in bucket.keys(f"artifacts/{claim_id}/")
        # A batch may hold jobs of other campaigns, whose artifacts were not asked for.
        if key not in referenced and any(job_id in key for job_id in jobs)
    ]


def _recovery_s(noted: Sequence[Row[Any]], fault_at: float) -> float | None:
    """Seconds until all jobs were final, of those that were not at the fault."""
    ended: dict[UUID, float] = {}
    for row in noted:
        if row.after in FINAL:
            ended.setdefault(row.job_id, row.at)
    late = [at - fault_at for at in ended.values() if at > fault_at]
    return max(late, default=None)
