"""Who makes what identical jobs ask for, so that it is made once."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, Row, text

Place = tuple[UUID, str]
"""A tenant and a digest: what a row of the table is about."""


@dataclass(frozen=True)
class Wanted:
    """What a running job asks for: jobs of a tenant with equal digests ask for the same."""

    tenant_id: UUID
    digest: str
    job_id: UUID

    @property
    def place(self) -> Place:
        """Where it is noted who makes it."""
        return self.tenant_id, self.digest


@dataclass(frozen=True)
class Making:
    """The job that makes something, or has made it; and for how long it has been at it."""

    job_id: UUID
    claim_id: UUID
    is_made: bool = False
    since_s: float = 0.0


def reserve(engine: Engine, claim_id: UUID, wanted: Sequence[Wanted]) -> dict[Place, Making]:
    """Who makes each: the very job that wants it, unless another has made it or is about to.

    ``wanted`` has each place once, for a job that runs under the claim. Another one counts if it
    has succeeded, or still runs under the claim that it was noted with; what anyone else was to
    make goes to the first who asks. Of those who ask at the same moment it goes to one.
    """
    with engine.begin() as connection:
        mine = _insert(connection, claim_id, wanted)
        makings = {each.place: Making(each.job_id, claim_id) for each in wanted}
        others = [each for each in wanted if each.place not in mine]
        gone = []
        for row in _read(connection, others):
            makings[row.tenant_id, row.digest] = Making(
                row.job_id, row.claim_id, row.is_made, float(row.since_s)
            )
            if not (row.is_made or row.is_busy):
                gone.append(row)
        if gone:
            taken = _take_over(connection, claim_id, others, gone)
            makings |= {
                each.place: Making(each.job_id, claim_id) for each in others if each.place in taken
            }
    return makings


_WANTED = """
    SELECT * FROM jsonb_to_recordset(CAST(:wanted AS jsonb)) AS wanted (
        tenant_id uuid, digest text, job_id uuid, old_job_id uuid, old_claim_id uuid)
    ORDER BY tenant_id, digest
"""
# In that order wherever rows are written or locked, so that nobody waits in a circle.


def _insert(connection: Connection, claim_id: UUID, wanted: Sequence[Wanted]) -> set[Place]:
    """What nobody has asked for before. It waits for whoever is just asking for the same."""
    rows = connection.execute(
        text(
            f"""
            INSERT INTO makings (tenant_id, digest, job_id, claim_id)
            SELECT tenant_id, digest, job_id, :claim_id FROM ({_WANTED}) AS wanted
            ON CONFLICT (tenant_id, digest) DO NOTHING RETURNING tenant_id, digest
            """  # noqa: S608 (constants)
        ),
        {"claim_id": claim_id, "wanted": _as_json(wanted)},
    )
    return {(row.tenant_id, row.digest) for row in rows}


def _read(connection: Connection, wanted: Sequence[Wanted]) -> Sequence[Row[Any]]:
    """Who makes them, by a snapshot that sees every reservation that `_insert` has met."""
    if not wanted:
        return ()
    return connection.execute(
        text(
            f"""
            SELECT makings.tenant_id, makings.digest, makings.job_id, makings.claim_id,
                   extract(epoch FROM clock_timestamp() - since) AS since_s,
                   coalesce(status = 'succeeded', false) AND EXISTS (
                       SELECT FROM artifacts WHERE artifacts.job_id = makings.job_id) AS is_made,
                   coalesce(status = 'running' AND jobs.claim_id = makings.claim_id, false)
                       AS is_busy
            FROM ({_WANTED}) AS wanted
            JOIN makings USING (tenant_id, digest)
            LEFT JOIN jobs ON jobs.id = makings.job_id AND jobs.tenant_id = makings.tenant_id
            """  # noqa: S608 (constants)
        ),
        {"wanted": _as_json(wanted)},
    ).all()


def _take_over(
    connection: Connection, claim_id: UUID, wanted: Sequence[Wanted], gone: Sequence[Row[Any]]
) -> set[Place]:
    """What is still noted for the jobs that will not make it; others may have been faster."""
    old = {(row.tenant_id, row.digest): row for row in gone}
    rows = connection.execute(
        text(
            f"""
            WITH wanted AS MATERIALIZED ({_WANTED}), held AS MATERIALIZED (
                SELECT makings.tenant_id, makings.digest FROM wanted
                JOIN makings USING (tenant_id, digest)
                WHERE makings.job_id = old_job_id AND makings.claim_id = old_claim_id
                ORDER BY makings.tenant_id, makings.digest FOR UPDATE OF makings
            )
            UPDATE makings SET job_id = wanted.job_id, claim_id = :claim_id,
                since = clock_timestamp()
            FROM wanted JOIN held USING (tenant_id, digest)
            WHERE makings.tenant_id = held.tenant_id AND makings.digest = held.digest
            RETURNING makings.tenant_id, makings.digest
            """  # noqa: S608 (constants)
        ),
        {
            "claim_id": claim_id,
            "wanted": _as_json([each for each in wanted if each.place in old], old),
        },
    )
    return {(row.tenant_id, row.digest) for row in rows}


def _as_json(wanted: Sequence[Wanted], old: dict[Place, Row[Any]] | None = None) -> str:
    """Rows come as one value, whatever their number: a statement that is prepared once."""
    return json.dumps(
        [
            {
                "tenant_id": str(each.tenant_id),
                "digest": each.digest,
                "job_id": str(each.job_id),
                "old_job_id": old and str(old[each.place].job_id),
                "old_claim_id": old and str(old[each.place].claim_id),
            }
            for each in wanted
        ]
    )


def made(connection: Connection, job_ids: Collection[UUID]) -> Sequence[Row[Any]]:
    """The artifacts of those that have succeeded, in order, which stay until the caller's end.

    What a purge is just deleting is left out. Whoever holds running jobs may ask: nobody is waited
    for.
    """
    if not job_ids:
        return ()
    held = connection.execute(
        text(
            """
            SELECT id FROM jobs WHERE id = ANY(:ids) AND status = 'succeeded'
            ORDER BY id FOR KEY SHARE SKIP LOCKED
            """
        ),
        {"ids": list(job_ids)},
    ).scalars()
    return connection.execute(
        # Younger than the locks: all of a job's artifacts, or none of one that is gone.
        text("SELECT * FROM artifacts WHERE job_id = ANY(:ids) ORDER BY job_id, index"),
        {"ids": list(held)},
    ).all()
