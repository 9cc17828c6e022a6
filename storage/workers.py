"""Which worker processes are up, as they say themselves."""

import os

from sqlalchemy import Engine, text


def seen(engine: Engine, *, name: str, pool: str, device: str) -> None:
    """This process's heartbeat under the worker's ``name``."""
    with engine.begin() as connection:
        connection.execute(
            text(
                """
                INSERT INTO workers (name, pool, device, pid)
                VALUES (:name, :pool, :device, :pid)
                ON CONFLICT (name) DO UPDATE SET
                    pool = excluded.pool, device = excluded.device, pid = excluded.pid,
                    started_at = CASE WHEN workers.pid = excluded.pid THEN workers.started_at
                                 ELSE clock_timestamp() END,
                    seen_at = clock_timestamp()
                """
            ),
            {"name": name, "pool": pool, "device": device, "pid": os.getpid()},
        )


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
