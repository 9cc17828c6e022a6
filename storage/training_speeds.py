"""How fast trainings were, by sort of device: measured by workers, for estimates to come."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Engine, select, text

from storage import tables


@dataclass(frozen=True)
class Speed:
    """Steps per second of a part of a training; the other fields are those of `jobs`' parts.

    ``says`` is in words what a step's ``work`` was.
    """

    device: str
    digest: str
    sort: str
    work: float
    says: str
    steps_per_s: float
    measured_at: datetime


def keep(
    engine: Engine,
    *,
    device: str,
    digest: str,
    sort: str,
    work: float,
    says: str,
    steps_per_s: float,
) -> None:
    """Keep what was measured just now, in place of what was measured before."""
    with engine.begin() as connection:
        connection.execute(
            text(
                """
                INSERT INTO training_speeds (device, digest, sort, work, says, steps_per_s)
                VALUES (:device, :digest, :sort, :work, :says, :steps_per_s)
                ON CONFLICT (device, digest) DO UPDATE SET
                    steps_per_s = excluded.steps_per_s, measured_at = excluded.measured_at
                """
            ),
            {
                "device": device,
                "digest": digest,
                "sort": sort,
                "work": work,
                "says": says,
                "steps_per_s": steps_per_s,
            },
        )


def of_sorts(connection: Connection, sorts: Collection[str]) -> list[Speed]:
    """All that was measured of parts of these sorts, the newest first."""
    row = tables.TrainingSpeed
    found = connection.execute(
        select(
            row.device, row.digest, row.sort, row.work, row.says, row.steps_per_s, row.measured_at
        )
        .where(row.sort.in_(sorts))
        .order_by(row.measured_at.desc())
    )
    return [Speed(*each) for each in found]
