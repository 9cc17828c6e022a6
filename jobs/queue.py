"""The Celery app and its routes. A message is only a wake-up: there is work in this pool."""

import logging
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

WORK = "presswork.work"
"""The task by which a worker is woken; published by name, since the code is the workers'."""

_log = logging.getLogger(__name__)

PUBLISH_TIMEOUT_S = 2


def make_app(broker_url: str) -> Celery:
    """A Celery app; everything that decides about loss and order is set here."""
    app = Celery("presswork", broker=broker_url)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        # SQL has every job's status; a second store of results could only disagree.
        task_ignore_result=True,
        # A wake-up that was lost with its worker is delivered to the next one.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        # With True, a restart of the broker killed the process in the middle of a batch.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # Importing torch takes longer than the four seconds Celery grants a child.
        worker_proc_alive_timeout=300,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        # A batch may take hours; a wake-up that is delivered twice finds nothing to do.
        broker_transport_options={
            "visibility_timeout": 3600,
            "socket_connect_timeout": PUBLISH_TIMEOUT_S,
            "socket_timeout": None,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
    )
    return app


class WakeUps:
    """Publishes wake-ups. Losing one costs a few seconds, so failures are logged, not raised."""

    def __init__(self, broker_url: str) -> None:
        self._app = make_app(broker_url)
        self._app.conf.broker_transport_options = {
            **self._app.conf.broker_transport_options,
            "socket_timeout": PUBLISH_TIMEOUT_S,
        }

    def send(self, pool: str, count: int = 1) -> bool:
        """Wake up to ``count`` workers of ``pool``; False: the broker did not take it."""
        try:
            with self._app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, timeout=PUBLISH_TIMEOUT_S)
                for _ in range(count):
                    self._app.send_task(
                        WORK, args=[pool], queue=pool, connection=connection, retry=False
                    )
        except (OperationalError, OSError) as error:
            _log.warning("no wake-up for pool %s: the broker does not answer (%s)", pool, error)
            return False
        return True

    def waiting(self, pool: str) -> int | None:
        """Wake-ups that no worker has taken yet; None: the broker does not answer."""
        try:
            with self._app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, timeout=PUBLISH_TIMEOUT_S)
                queue = self._app.amqp.queues[pool](connection.default_channel)
                depth: Any = queue.queue_declare(passive=False).message_count
                return int(depth)
        except (OperationalError, OSError) as error:
            _log.warning("pool %s: the broker does not answer (%s)", pool, error)
            return None

    def close(self) -> None:
        """Give back the connections."""
        self._app.close()
