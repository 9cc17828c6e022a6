"""One worker process per device, pinned and kept running."""

import logging
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from jobs.devices import Slot
from jobs.processes import Program, Supervisor

_log = logging.getLogger(__name__)

POLL_S = 0.5


def supervise(slots: Sequence[Slot], logs: Path, grace_s: float) -> None:
    """Keep one worker process per slot running until SIGTERM or Ctrl-C.

    Then they have ``grace_s`` to come to the next step and give their batches back.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    logs.mkdir(parents=True, exist_ok=True)
    supervisor = Supervisor()
    try:
        for slot in slots:
            supervisor.start(
                Program(
                    name=f"worker {slot.name}",
                    command=[sys.executable, "-m", "workers.main", "--slot", slot.name],
                    log=logs / f"worker-{slot.name}.log",
                    environment=slot.environment,
                    grace_s=grace_s,
                )
            )
        _log.info("workers: %s", ", ".join(slot.name for slot in slots))
        while not stop.wait(POLL_S):
            supervisor.poll()
    finally:
        supervisor.stop()
