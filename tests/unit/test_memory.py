"""How much memory a worker uses, as calls are measured by."""

import sys

import pytest

from jobs import machine
from workers import memory
from workers.family import Device

CPU = Device("cpu")
MIB = 2**20
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="nobody else counts the peak anew")


@LINUX
def test_the_peak_of_a_call() -> None:
    """It is what was used at most since the call began, whatever was used before."""
    before = memory.watch_peak(CPU)
    held = bytearray(b"x") * (64 * MIB)
    del held
    peak = memory.peak_bytes(CPU)
    assert peak is not None
    assert 48 * MIB < peak - before < 128 * MIB
    later = memory.peak_bytes(CPU) if memory.watch_peak(CPU) else None
    assert later is not None
    assert later < peak - 32 * MIB


def test_what_a_process_could_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has, and what nobody does."""
    monkeypatch.setattr(machine, "free_bytes", lambda: 512 * MIB)
    assert abs(memory.available_bytes(CPU) - memory.used_bytes(CPU) - 512 * MIB) < 32 * MIB


def test_slots_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its part of what the machine or its container has."""
    monkeypatch.setattr(machine, "memory_bytes", lambda: 10 * MIB)
    assert memory.capacity_bytes(Device("cpu", shares=4)) == 2.5 * MIB
    assert memory.used_bytes(Device("cpu", shares=4)) > 10 * MIB
