"""What ``--devices`` means: one slot, and later one process, per device."""

import os
import socket
from dataclasses import dataclass

from jobs import gpus, machine


@dataclass(frozen=True)
class Slot:
    """A device for one worker process. ``visible`` is its CUDA_VISIBLE_DEVICES.

    A CPU slot has ``cores`` of its own, computes with ``threads``, and has one of ``shares`` equal
    shares of the memory. Without ``cores`` a process keeps those that it has.
    """

    name: str
    type: str
    visible: str
    cores: tuple[int, ...] = ()
    threads: int | None = None
    shares: int = 1

    @property
    def worker_name(self) -> str:
        """The same after a restart, different on every host."""
        return f"{self.name}@{socket.gethostname()}"

    @property
    def environment(self) -> dict[str, str]:
        """What must be set before torch is imported."""
        # Numbered as nvidia-smi does, not fastest first.
        pinned = {"CUDA_VISIBLE_DEVICES": self.visible, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        if self.threads:
            pinned["OMP_NUM_THREADS"] = str(self.threads)
        return pinned


def parse_devices(text: str) -> list[Slot]:
    """``cpu``, ``cpu:2`` (two processes that divide the cores), GPUs (``0,1``), or ``all``.

    GPUs are named as in CUDA_VISIBLE_DEVICES: by number, or by UUID as ``nvidia-smi -L`` lists it,
    parts (MIG) as well. ``all`` is every GPU, or one ``cpu`` where there is none.

    Raises:
        ValueError: saying what is wrong.
    """
    if text == "all":
        text = ",".join(gpus.allotted()) or "cpu"
    slots: list[Slot] = []
    for part in map(str.strip, text.split(",")):
        device, colon, count = part.partition(":")
        if device == "cpu" and (not colon or (count.isdecimal() and int(count) > 0)):
            slots += _cpu_slots(int(count or 1))
        elif gpus.NAME.fullmatch(part):
            slots.append(Slot(f"cuda-{part.replace('/', '-')}", "cuda", part))
        else:
            raise ValueError(
                f"{part!r} is not a device: use cpu, cpu:N, GPU numbers or UUIDs, or all"
            )
    if len(_identities(slots)) < len(slots):
        raise ValueError(f"{text!r} names a device twice")
    return slots


def _identities(slots: list[Slot]) -> set[str]:
    """What is behind the names, as far as the driver knows."""
    known = gpus.listed() if any(slot.type == "cuda" for slot in slots) else None
    return {
        gpus.identity(slot.visible, known)
        if slot.type == "cuda" and known is not None
        else slot.name
        for slot in slots
    }


def _cpu_slots(count: int) -> list[Slot]:
    """Each with its own cores; where there are not enough, one of those that others have too."""
    cores, worth = machine.cores(), machine.cores_worth()
    slots = []
    for n in range(count):
        own = cores[n * len(cores) // count : (n + 1) * len(cores) // count]
        if count > len(cores):
            own = (cores[n % len(cores)],)
        threads = min(len(own), max(worth * len(own) // len(cores), 1), _threads_wanted())
        slots.append(Slot(f"cpu-{n}", "cpu", "", own if count > 1 else (), threads, count))
    return slots


def _threads_wanted() -> int:
    """What OMP_NUM_THREADS allows; it may be a list, of which the first counts."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(wanted) if wanted.isdecimal() and int(wanted) else len(machine.cores())
