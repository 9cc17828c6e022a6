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
from workers.devices import slot_of, stay_on_cores, supervise
from workers.stopping import Pause, StopFlag
from workers.watchdog import Watchdog

_log = logging.getLogger(__name__)

OFFLINE: Mapping[str, str] = MappingProxyType(
    {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "USE_HUB_KERNELS": "NO",
        "ORT_DISABLE_TELEMETRY": "1",
    }
)
"""A worker has what it loads from the bucket: no library may ask the hub, for code least of all.

Nor may onnxruntime tell its maker about us, for which it keeps a database that all slots share.
"""


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
        for pool in self._config.pools:
            app.amqp.queues.add(Queue(pool, no_declare=True))
        worker_process_init.connect(self._start_child, weak=False)
        worker_process_shutdown.connect(self._stop_child, weak=False)
        worker_shutting_down.connect(lambda **_: self._stopping.set(), weak=False)
        Watchdog(self._config.broker_url, self._config.pools, self._stopping).watch()
        worker = app.Worker(
            hostname=self._slot.worker_name,
            queues=list(self._config.pools),
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
        try:
            # Torch, in the child only.
            from workers import memory  # noqa: PLC0415
            from workers.loop import WorkLoop  # noqa: PLC0415

            memory.set_libraries_aside()
            self._loop = WorkLoop(self._config, self._slot, self._stopping, self._pause)
            self._loop.start()
        except Exception:  # noqa: BLE001 (whatever it is)
            # Celery would go on with a child that works at nothing. Whoever supervises this worker
            # starts it again, after a while.
            _log.exception("the child cannot start: ending this worker")
            os.kill(os.getppid(), signal.SIGTERM)

    def _stop_child(self, **_: Any) -> None:
        if self._loop:
            self._loop.stop()


def main() -> None:
    """``python -m workers.main --devices all``."""
    parser = argparse.ArgumentParser(prog="python -m workers.main")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--devices", help="cpu, cpu:N, GPU numbers or UUIDs, or all")
    which.add_argument("--slot", help="one device, already pinned by the process above")
    parser.add_argument("--cores", default="", help="the slot's own, as numbers")
    parser.add_argument("--shares", type=int, default=1, help="slots that share the memory")
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
    slot = slot_of(arguments.slot, arguments.cores, arguments.shares)
    stay_on_cores(slot)
    sys.exit(WorkerProcess(settings.load(), slot).run())


if __name__ == "__main__":
    main()
