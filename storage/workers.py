"""Which worker processes are up, as they say themselves."""

import os

from sqlalchemy import Engine, text

from storage import clock


def seen(engine: Engine, *, name: str, pool: str, device: str) -> float:
    """This process's heartbeat under the worker's ``name``.

    The answer is what it has noted beside it: by how many seconds this machine's clock is ahead.
    """
    with engine.begin() as connection:
        skew_s = clock.ahead_s(connection)
        connection.execute(
            text(
                """
                INSERT INTO workers (name, pool, device, pid, clock_skew_s)
                VALUES (:name, :pool, :device, :pid, :clock_skew_s)
                ON CONFLICT (name) DO UPDATE SET
                    pool = excluded.pool, device = excluded.device, pid = excluded.pid,
                    clock_skew_s = excluded.clock_skew_s,
                    started_at = CASE WHEN workers.pid = excluded.pid THEN workers.started_at
                                 ELSE clock_timestamp() END,
                    seen_at = clock_timestamp()
                """
            ),
            {
                "name": name,
                "pool": pool,
                "device": device,
                "pid": os.getpid(),
                "clock_skew_s": skew_s,
            },
        )
    return skew_s


def gone(engine: Engine, *, name: str) -> None:
    """The worker has ended in order."""
    with engine.begin() as connection:
        connection.execute(
            text("DELETE FROM workers WHERE name = :name AND pid = :pid"),
            {"name": name, "pid": os.getpid()},
        )


def live(engine: Engine, *, within_s: float) -> list[str]:
    """The names of the workers that were seen in the last ``within_s`` seconds."""
    with engine.begin() as connection:
        names = connection.execute(
            text(
                """
                SELECT name FROM workers
                WHERE seen_at > clock_timestamp() - make_interval(secs => :within_s)
                ORDER BY name
                """
            ),
            {"within_s": within_s},
        ).scalars()
        return list(names)


def clock_skews(engine: Engine, *, within_s: float) -> dict[str, float]:
    """By how many seconds the clock of each live worker that is off is ahead, by name."""
    with engine.begin() as connection:
        rows = connection.execute(
            text(
                """
                SELECT name, clock_skew_s FROM workers
                WHERE seen_at > clock_timestamp() - make_interval(secs => :within_s)
                  AND abs(clock_skew_s) > :tolerated_s
                ORDER BY name
                """
            ),
            {"within_s": within_s, "tolerated_s": clock.TOLERATED_S},
        ).all()
    return {row.name: row.clock_skew_s for row in rows}
