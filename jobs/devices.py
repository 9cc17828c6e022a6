"""What ``--devices`` means: one slot, and later one process, per device."""

import os
import shutil
import socket
import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Slot:
    """A device for one worker process. ``visible`` is its CUDA_VISIBLE_DEVICES."""

    name: str
    type: str
    visible: str
    threads: int | None = None

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
    """``cpu``, ``cpu:2`` (two processes that share the cores), ``0,1`` (GPUs), or ``all``.

    ``all`` is every GPU, or one ``cpu`` where there is none.

    Raises:
        ValueError: saying what is wrong.
    """
    if text == "all":
        gpus = _gpus()
        text = ",".join(gpus) if gpus else "cpu"
    slots: list[Slot] = []
    for part in text.split(","):
        device, _, count = part.strip().partition(":")
        if device == "cpu" and (not count or (count.isdecimal() and int(count) > 0)):
            slots += _cpu_slots(int(count or 1))
        elif device.isdecimal() and not count:
            slots.append(Slot(f"cuda-{device}", "cuda", device))
        else:
            raise ValueError(f"{part!r} is not a device: use cpu, cpu:N, GPU numbers, or all")
    if len({slot.name for slot in slots}) < len(slots):
        raise ValueError(f"{text!r} names a device twice")
    return slots


def _cpu_slots(count: int) -> list[Slot]:
    threads = max((os.cpu_count() or 1) // count, 1) if count > 1 else None
    return [Slot(f"cpu-{n}", "cpu", "", threads) for n in range(count)]


def _gpus() -> list[str]:
    """GPU numbers by the driver's own tool: asking torch would open every device.

    Only those that were allotted to us, where CUDA_VISIBLE_DEVICES says so.
    """
    allotted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allotted is not None:
        return _numbers(allotted)
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    listed = subprocess.run(
        [tool, "--query-gpu=index", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    return listed.stdout.split() if listed.returncode == 0 else []


def _numbers(allotted: str) -> list[str]:
    """The GPU numbers of a CUDA_VISIBLE_DEVICES; ``-1`` and nothing both mean none."""
    names = [name.strip() for name in allotted.split(",") if name.strip() not in ("", "-1")]
    for name in names:
        if not name.isdecimal():
            # Left out in silence, it would be paid for and idle.
            raise ValueError(f"{name!r} in CUDA_VISIBLE_DEVICES is not a number: use GPU numbers")
    return names
