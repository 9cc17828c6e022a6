"""Which claims may have left objects that no artifact refers to, and when to look for them.

A note is written in the transaction that makes it true, so that a crash can delay a look but
never lose one. What a look finds is decided by `unreferenced`, and by nothing else.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, Engine, text

LOOK_AFTER_S = (0, 60, 600, 3600, 86400)
"""Seconds from the note to each look: a worker that lost its lease may still be uploading."""

TAKEN_S = 300
"""After how long another sweeper looks in place of one that died over it."""


@dataclass(frozen=True)
class Noted:
    """A claim whose objects are to be looked at now, and by whoever took it alone."""

    claim_id: UUID
    noted_at: datetime


def note(connection: Connection, claim_id: UUID) -> None:
    """Look for what the claim leaves, as of now; one that is noted already is due again."""
    connection.execute(
        text(
            """
            INSERT INTO orphans (claim_id) VALUES (:id)
            ON CONFLICT (claim_id) DO UPDATE
            SET noted_at = clock_timestamp(), look_at = clock_timestamp(), looks = 0
            """
        ),
        {"id": claim_id},
    )


def note_deleted(connection: Connection, claim_ids: Collection[UUID]) -> list[UUID]:
    """Note claims whose artifacts the caller deletes, and give those that were not noted before.

    The caller is about to delete the objects as well. Only if it dies over that they are looked
    for, once; otherwise it says so by `forget`.
    """
    values = {"ids": list(claim_ids), "last": len(LOOK_AFTER_S) - 1, "taken_s": TAKEN_S}
    # Whoever looks at one of them just now may have seen the artifacts still: look again.
    connection.execute(
        text(
            """
            WITH found AS (
                SELECT claim_id FROM orphans WHERE claim_id = ANY(:ids)
                ORDER BY claim_id FOR UPDATE
            )
            UPDATE orphans SET noted_at = clock_timestamp(), looks = 0,
                look_at = clock_timestamp() + make_interval(secs => :taken_s)
            FROM found WHERE orphans.claim_id = found.claim_id
            """
        ),
        values,
    )
    return list(
        connection.execute(
            text(
                """
                INSERT INTO orphans (claim_id, looks, look_at)
                SELECT id, :last, clock_timestamp() + make_interval(secs => :taken_s)
                FROM unnest(CAST(:ids AS uuid[])) AS claim (id) ORDER BY id
                ON CONFLICT (claim_id) DO NOTHING RETURNING claim_id
                """
            ),
            values,
        ).scalars()
    )


def forget(engine: Engine, claim_ids: Collection[UUID]) -> None:
    """The objects of `note_deleted` are gone; a claim that was noted again since then stays."""
    with engine.begin() as connection:
        connection.execute(
            text("DELETE FROM orphans WHERE claim_id = ANY(:ids) AND looks = :last"),
            {"ids": list(claim_ids), "last": len(LOOK_AFTER_S) - 1},
        )


def take(engine: Engine, most: int) -> list[Noted]:
    """Up to ``most`` claims that are due and that can no longer finish.

    A claim that is alive is left for a minute. One that is not never will be again: ids are not
    used twice, and every finish asks for a running job under its claim.
    """
    with engine.begin() as connection:
        rows = connection.execute(
            text(
                """
                WITH due AS (
                    SELECT claim_id FROM orphans WHERE look_at <= clock_timestamp()
                    ORDER BY look_at LIMIT :most FOR UPDATE SKIP LOCKED
                ), seen AS (
                    SELECT claim_id,
                        EXISTS (SELECT FROM claims WHERE claims.id = due.claim_id)
                        OR EXISTS (SELECT FROM jobs WHERE jobs.claim_id = due.claim_id
                                   AND jobs.status = 'running') AS alive
                    FROM due
                )
                UPDATE orphans SET look_at = clock_timestamp()
                    + CASE WHEN alive THEN interval '1 minute'
                           ELSE make_interval(secs => :taken_s) END
                FROM seen WHERE orphans.claim_id = seen.claim_id
                RETURNING orphans.claim_id, orphans.noted_at, alive
                """
            ),
            {"most": most, "taken_s": TAKEN_S},
        ).all()
    return [Noted(row.claim_id, row.noted_at) for row in rows if not row.alive]


def unreferenced(engine: Engine, keys: Sequence[str]) -> list[str]:
    """Those of ``keys`` that no artifact refers to.

    Final only for keys that were listed after `take` had found their claim unable to finish: from
    then on artifacts may go, but no first one can come. Jobs of other claims that reuse an object
    are led to it by an artifact, which cannot go before theirs has come.
    """
    with engine.begin() as connection:
        referenced = set(
            connection.execute(
                text("SELECT object_key FROM artifacts WHERE object_key = ANY(:keys)"),
                {"keys": list(keys)},
            ).scalars()
        )
    return [key for key in keys if key not in referenced]


def looked(engine: Engine, noted: Noted) -> None:
    """A look is done: the next one comes at its time, and after the last one the note goes."""
    with engine.begin() as connection:
        # The guard: what was noted again meanwhile is due again.
        values = {"id": noted.claim_id, "noted_at": noted.noted_at}
        looks = connection.execute(
            text(
                """
                UPDATE orphans SET looks = looks + 1
                WHERE claim_id = :id AND noted_at = :noted_at RETURNING looks
                """
            ),
            values,
        ).scalar()
        if looks is None:
            return
        if looks >= len(LOOK_AFTER_S):
            connection.execute(text("DELETE FROM orphans WHERE claim_id = :id"), values)
            return
        connection.execute(
            text(
                """
                UPDATE orphans SET look_at = noted_at + make_interval(secs => :after_s)
                WHERE claim_id = :id
                """
            ),
            {**values, "after_s": LOOK_AFTER_S[looks]},
        )


def put_back(engine: Engine, taken: Collection[Noted]) -> None:
    """Nothing could be looked at: they are due again."""
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE orphans SET look_at = clock_timestamp() WHERE claim_id = ANY(:ids)"),
            {"ids": [noted.claim_id for noted in taken]},
        )
