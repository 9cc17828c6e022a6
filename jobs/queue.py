"""The Celery app and its routes. A message is only a wake-up: there is work in this pool."""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar
from uuid import uuid4

from celery import Celery
from kombu.transport.redis import Channel

WORK = "presswork.work"
"""The task by which a worker is woken; published by name, since the code is the workers'."""

_log = logging.getLogger(__name__)

T = TypeVar("T")

CONSUME_TIMEOUT_S = 5
PUBLISH_TIMEOUT_S = 2
PAUSE_S = 1.0
"""How long a broker that has just failed is left alone: nobody should wait for it in turn."""


def make_app(broker_url: str) -> Celery:
    """A Celery app; everything that decides about loss and order is set here."""
    app = Celery("presswork", broker=broker_url)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        # SQL has every job's status; a second store of results could only disagree.
        task_ignore_result=True,
        # A busy worker takes no further wake-up, and one whose child was killed gives its own back.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        # With True, a restart of the broker killed the process in the middle of a batch.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # A broker that is full or read-only refuses to take a wake-up back; left at False, that
        # would end the worker.
        broker_channel_error_retry=True,
        # Importing torch takes longer than the four seconds Celery grants a child.
        worker_proc_alive_timeout=300,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        # Nobody asks; it would be one more connection to go wrong.
        worker_enable_remote_control=False,
        broker_transport_options={
            # What is lost between pop and acknowledgement is sent again by the sweeper. To keep a
            # list of it in the broker would cost two round trips per wake-up, fail when memory is
            # full, and deliver again, in a burst, what nobody needs any more.
            "ack_emulation": False,
            "socket_connect_timeout": PUBLISH_TIMEOUT_S,
            # For questions that are answered at once. Without it a connection that went silent
            # would stop the consumer for good; waiting for a wake-up is not meant.
            "socket_timeout": CONSUME_TIMEOUT_S,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
    )
    # For the same reason nothing is put back when a connection ends: it would fail with the broker,
    # and be dumped into files.
    Channel.do_restore = False
    return app


class WakeUps:
    """Publishes wake-ups, from any thread.

    Losing one costs a few seconds, since all work is in SQL: whatever the broker does is logged,
    not raised, and nobody waits for it much longer than `PUBLISH_TIMEOUT_S`.
    """

    def __init__(self, broker_url: str) -> None:
        self._app = make_app(broker_url)
        self._app.conf.broker_transport_options = {
            **self._app.conf.broker_transport_options,
            "socket_timeout": PUBLISH_TIMEOUT_S,
        }
        self._lock = threading.Lock()
        self._connection: Any = None
        self._failed_at = float("-inf")
        self._trouble = "does not answer"

    def send(self, pool: str, count: int = 1) -> bool:
        """Wake up to ``count`` workers of ``pool``; False: the broker did not take it."""

        def send(connection: Any) -> bool:
            for _ in range(count):
                self._publish(pool, connection)
            return True

        return self._ask(send) or False

    def waiting(self, pool: str) -> int | None:
        """Wake-ups that no worker has taken yet; None: the broker does not answer."""

        def count(connection: Any) -> int:
            return int(connection.default_channel.queue_declare(pool).message_count)

        return self._ask(count)

    def trouble(self) -> str | None:
        """Why the broker takes no wake-ups, tried in a queue of our own; None: it does."""
        queue = f"presswork-doctor-{uuid4()}"

        def attempt(connection: Any) -> bool:
            self._publish(queue, connection)
            connection.default_channel.queue_purge(queue)
            return True

        return None if self._ask(attempt) else self._trouble

    def disconnect(self) -> None:
        """Give the connection back; the next question opens another."""
        with self._lock:
            self._drop()

    def close(self) -> None:
        """Give everything back."""
        self.disconnect()
        self._app.close()

    def _publish(self, queue: str, connection: Any) -> None:
        # Nothing is declared: that would write, and a list in Redis needs none.
        self._app.send_task(
            WORK, args=[queue], queue=queue, connection=connection, retry=False, declare=[]
        )

    def _ask(self, question: Callable[[Any], T]) -> T | None:
        """The broker's answer, or None."""
        if not self._lock.acquire(timeout=PUBLISH_TIMEOUT_S):
            return None
        try:
            if time.monotonic() < self._failed_at + PAUSE_S:
                return None
            if self._connection is None:
                self._connection = self._app.connection_for_write()
                # Once; by itself it would go on for ever.
                self._connection.ensure_connection(max_retries=0)
            return question(self._connection)
        except Exception as error:  # noqa: BLE001 (what a broker may answer has no common base)
            self._trouble = str(error) or type(error).__name__
            _log.warning("the broker does not serve wake-ups: %s", self._trouble)
            self._drop()
            self._failed_at = time.monotonic()
            return None
        finally:
            self._lock.release()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):  # it may be what has just failed
                connection.release()
