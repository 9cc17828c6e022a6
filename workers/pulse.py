"""The heartbeat of a worker process: it is up, its claims are held, and which jobs are to stop."""

import logging
import threading
import time
from uuid import UUID

import psycopg
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from storage import clock, workers
from storage.ledger import claim
from workers.report import Report

_log = logging.getLogger(__name__)

LOOK_S = 0.5
"""How long the thread sleeps at a time; a NOTIFY wakes it at once."""


class Held:
    """A claim that is being worked on, as the heartbeat last saw it."""

    def __init__(self, claim_id: UUID) -> None:
        self.claim_id = claim_id
        self.lost = False
        self.cancelled: frozenset[UUID] = frozenset()
        self.paused: frozenset[UUID] = frozenset()


class Pulse:
    """A thread with a connection of its own that lives as long as the process.

    At every beat it sends what the ``report`` says then.
    """

    def __init__(
        self, engine: Engine, *, name: str, pool: str, device: str, every_s: float
    ) -> None:
        self.report = Report()
        self._engine = engine
        self._name = name
        self._pool = pool
        self._device = device
        self._every_s = every_s
        # Replaced as a whole, by whichever thread: the heartbeat goes through what it saw.
        self._held: tuple[Held, ...] = ()
        self._holding = threading.Lock()
        self._skew_s = 0.0
        self._stop = threading.Event()
        # A daemon: it must never keep a process alive that has nothing left to do.
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        """From here on the worker counts as up."""
        self._thread.start()

    def stop(self) -> None:
        """End, and say that the worker is gone."""
        self._stop.set()
        self._thread.join(timeout=LOOK_S * 4)
        try:
            workers.gone(self._engine, name=self._name)
        except DBAPIError as error:
            _log.warning("could not sign off: %s", error.orig)

    def hold(self, claim_id: UUID) -> Held:
        """Renew the claim's lease at every beat, beside those that are held already.

        Whoever holds it drops it, whatever happens: otherwise its jobs would never be others'.
        """
        held = Held(claim_id)
        with self._holding:
            self._held = (*self._held, held)
        return held

    def drop(self, held: Held) -> None:
        """Renew it no longer. From any thread."""
        with self._holding:
            self._held = tuple(other for other in self._held if other is not held)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._listen()
            except Exception as error:  # noqa: BLE001 (without it every batch would be done twice)
                _log.warning("heartbeat: the database does not answer (%s)", error)
                self._stop.wait(LOOK_S)

    def _listen(self) -> None:
        with self._engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert isinstance(driver, psycopg.Connection)
            # Before anything else: this connection must never go back to the pool.
            connection.detach()
            driver.autocommit = True
            driver.execute(f"LISTEN {claim.CANCEL_CHANNEL}")
            due = 0.0
            while not self._stop.is_set():
                notified = [n.payload for n in driver.notifies(timeout=LOOK_S, stop_after=1)]
                concerned = any(str(held.claim_id) in notified for held in self._held)
                if concerned or time.monotonic() >= due:
                    self._beat()
                    due = time.monotonic() + self._every_s

    def _beat(self) -> None:
        skew_s = workers.seen(
            self._engine,
            name=self._name,
            pool=self._pool,
            device=self._device,
            state=self.report.state(),
        )
        self._note_clock(skew_s)
        for held in self._held:
            lease = claim.renew(self._engine, held.claim_id)
            held.cancelled, held.paused = lease.cancelled, lease.paused
            # Also true once the batch is finished, when nobody asks any more.
            held.lost = not lease.held

    def _note_clock(self, skew_s: float) -> None:
        """Log a clock that has gone wrong, or right again: once, not at every beat."""
        if abs(skew_s - self._skew_s) <= clock.TOLERATED_S:
            return
        self._skew_s = skew_s
        if abs(skew_s) <= clock.TOLERATED_S:
            _log.info("this machine's clock is right again")
            return
        _log.warning(
            "this machine's clock is %+.1f s from the database's: set it (NTP); leases do not "
            "depend on it, but S3 refuses what is signed at a wrong time",
            skew_s,
        )
