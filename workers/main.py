"""The composition root of a worker: device -> settings -> Celery worker with one child process.

Torch is imported in the child only, after the device has been pinned: the parent forks, and a
CUDA context does not survive a fork.
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from celery.signals import worker_process_init, worker_process_shutdown, worker_shutting_down
from kombu import Queue

from jobs import settings
from jobs.devices import Slot, parse_devices
from jobs.logs import set_up_logging
from jobs.processes import die_with_parent, end_with_stack
from jobs.queue import WORK, make_app
from jobs.settings import Settings
from workers.devices import supervise
from workers.stopping import Pause, StopFlag
from workers.watchdog import Watchdog

_log = logging.getLogger(__name__)

OFFLINE: Mapping[str, str] = MappingProxyType(
    {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "USE_HUB_KERNELS": "NO"}
)
"""A worker has what it loads from the bucket: no library may ask the hub, for code least of all."""


class WorkerProcess:
    """One Celery worker. The loop exists in its child only, from the fork on."""

    def __init__(self, config: Settings, slot: Slot) -> None:
        self._config = config
        self._slot = slot
        self._loop: Any = None
        self._stopping = StopFlag()
        self._pause = Pause()

    def run(self) -> int:
        """Serve wake-ups until SIGTERM; the exit code."""
        app = make_app(self._config.broker_url)
        app.task(name=WORK)(self.work)
        # Undeclared: to declare is to write, and a broker that is full refuses that.
        app.amqp.queues.add(Queue(self._config.pool, no_declare=True))
        worker_process_init.connect(self._start_child, weak=False)
        worker_process_shutdown.connect(self._stop_child, weak=False)
        worker_shutting_down.connect(lambda **_: self._stopping.set(), weak=False)
        Watchdog(self._config.broker_url, self._config.pool, self._stopping).watch()
        worker = app.Worker(
            hostname=self._slot.worker_name,
            queues=[self._config.pool],
            pool="prefork",
            concurrency=1,
            loglevel="INFO",
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
        )
        worker.start()
        return int(worker.exitcode or 0)

    def work(self, pool: str) -> None:  # noqa: ARG002 (for who reads the queue)
        """The task behind a wake-up: work until nothing is left."""
        self._loop.drain()

    def _start_child(self, **_: Any) -> None:
        # The parent's child must not outlive it: a second one would be started beside it.
        die_with_parent(signal.SIGKILL)
        from workers.loop import WorkLoop  # noqa: PLC0415 (torch, in the child only)

        self._loop = WorkLoop(self._config, self._slot, self._stopping, self._pause)
        self._loop.start()

    def _stop_child(self, **_: Any) -> None:
        if self._loop:
            self._loop.stop()


def main() -> None:
    """``python -m workers.main --devices all``."""
    parser = argparse.ArgumentParser(prog="python -m workers.main")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--devices", help="cpu, cpu:N, GPU numbers such as 0,1, or all")
    which.add_argument("--slot", help="one device, already pinned by the process above")
    parser.add_argument("--grace-s", type=float, default=30, help="time to stop in")
    parser.add_argument("--logs", type=Path, default=Path(".presswork/logs"))
    arguments = parser.parse_args()
    os.environ.update(OFFLINE)
    # A slot's process must not outlive its supervisor: the next one would share its device.
    end_with_stack(signal.SIGKILL if arguments.slot else signal.SIGTERM)
    set_up_logging()
    if arguments.devices:
        try:
            slots = parse_devices(arguments.devices)
        except ValueError as error:
            parser.error(str(error))
        supervise(slots, arguments.logs, arguments.grace_s)
        return
    name: str = arguments.slot
    slot = Slot(name, name.partition("-")[0], visible="")
    sys.exit(WorkerProcess(settings.load(), slot).run())


if __name__ == "__main__":
    main()
