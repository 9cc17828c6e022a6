"""How many jobs a call may have, by device and batch key, where memory has set a limit.

A limit is good for a day: what took the memory then may be gone, and a batch that does not fit
costs little more than the attempt.
"""

from sqlalchemy import Engine, text

GOOD_FOR_S = 24 * 3600


def read(engine: Engine, *, device: str, batch_key: str) -> int | None:
    """The limit for calls of this key on this sort of device; None: none is known."""
    with engine.begin() as connection:
        return connection.execute(
            text(
                """
                SELECT size FROM batch_sizes
                WHERE device = :device AND batch_key = :batch_key
                  AND updated_at > clock_timestamp() - make_interval(secs => :good_for_s)
                """
            ),
            {"device": device, "batch_key": batch_key, "good_for_s": GOOD_FOR_S},
        ).scalar()


def lower(engine: Engine, *, device: str, batch_key: str, size: int) -> None:
    """From now on calls have ``size`` jobs at most, or fewer where that is known already."""
    with engine.begin() as connection:
        connection.execute(
            text(
                """
                INSERT INTO batch_sizes (device, batch_key, size)
                VALUES (:device, :batch_key, :size)
                ON CONFLICT (device, batch_key) DO UPDATE SET
                    size = CASE WHEN batch_sizes.updated_at
                                     > clock_timestamp() - make_interval(secs => :good_for_s)
                                THEN LEAST(batch_sizes.size, excluded.size)
                                ELSE excluded.size END,
                    updated_at = clock_timestamp()
                """
            ),
            {
                "device": device,
                "batch_key": batch_key,
                "size": size,
                "good_for_s": GOOD_FOR_S,
            },
        )
