"""One worker process per device, pinned and kept running."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from jobs import machine
from jobs.devices import Slot
from jobs.processes import Program, Supervisor

_log = logging.getLogger(__name__)

POLL_S = 0.5


def arguments_of(slot: Slot) -> list[str]:
    """What a slot's own process is told, beside its environment; see `slot_of`."""
    cores = ",".join(map(str, slot.cores))
    return ["--slot", slot.name, "--cores", cores, "--shares", str(slot.shares)]


def slot_of(name: str, cores: str, shares: int) -> Slot:
    """The slot that this process is, which its environment has pinned already."""
    own = tuple(int(core) for core in cores.split(",") if core)
    return Slot(name, name.partition("-")[0], visible="", cores=own, shares=shares)


def stay_on_cores(slot: Slot) -> None:
    """Run on the slot's own cores only, with all threads and children that are to come."""
    if not slot.cores or not hasattr(os, "sched_setaffinity"):
        return
    try:
        os.sched_setaffinity(0, slot.cores)
    except OSError as error:  # they were taken from us since the supervisor has started
        _log.warning("%s cannot have cores %s to itself: %s", slot.name, slot.cores, error)


def supervise(slots: Sequence[Slot], logs: Path, grace_s: float) -> None:
    """Keep one worker process per slot running until SIGTERM or Ctrl-C.

    Then they have ``grace_s`` to come to the next step and give their batches back.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    logs.mkdir(parents=True, exist_ok=True)
    cpu_slots = sum(slot.type == "cpu" for slot in slots)
    if cpu_slots > len(machine.cores()):
        _log.warning(
            "%d CPU slots share %d cores: they hold each other up",
            cpu_slots,
            len(machine.cores()),
        )
    supervisor = Supervisor()
    try:
        for slot in slots:
            supervisor.start(
                Program(
                    name=f"worker {slot.name}",
                    command=[sys.executable, "-m", "workers.main", *arguments_of(slot)],
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
