"""Tells the fan-out that a campaign has come, so that it does not sleep meanwhile."""

import threading
import time

import psycopg
from sqlalchemy import Engine

from storage.ledger.submit import SUBMITTED_CHANNEL

LOOK_S = 0.5
"""How long it may take to see that it is time to stop."""


class Arrivals:
    """A connection of its own that listens; without one a pause takes its whole time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._driver: psycopg.Connection | None = None

    def listen(self) -> None:
        """From here on what is submitted cuts a pause short, the next one included.

        Raises:
            sqlalchemy.exc.DBAPIError: the database does not answer.
        """
        if self._driver is not None:
            return
        connection = self._engine.connect()
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        connection.detach()  # ours from here on: it never goes back to the pool
        self._driver = driver
        try:
            driver.autocommit = True
            driver.execute(f"LISTEN {SUBMITTED_CHANNEL}")
        except psycopg.Error:
            self.close()

    def pause(self, seconds: float, stop: threading.Event) -> None:
        """Let the time pass, or less if a campaign is submitted or it is time to stop."""
        ends_at = time.monotonic() + seconds
        try:
            while self._driver is not None and not stop.is_set():
                left_s = min(ends_at - time.monotonic(), LOOK_S)
                if left_s <= 0 or any(self._driver.notifies(timeout=left_s, stop_after=1)):
                    return
        except psycopg.Error:
            self.close()
        stop.wait(max(ends_at - time.monotonic(), 0))

    def close(self) -> None:
        """Give the connection back."""
        if self._driver is not None:
            self._driver.close()
        self._driver = None
