"""This machine's clock beside the database's, which is the one that counts."""

import time

from sqlalchemy import Connection, text

TOLERATED_S = 5.0
"""More than clocks that are kept by NTP ever differ, and far less than S3 minds (15 minutes)."""


def ahead_s(connection: Connection) -> float:
    """Seconds by which this machine's clock is ahead of the database's; negative: behind.

    Never more than is certain, so that a slow answer does not pass for a wrong clock.
    """
    before = time.time()
    theirs = float(
        connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
    )
    after = time.time()
    return max(before - theirs, 0.0) or min(after - theirs, 0.0)
