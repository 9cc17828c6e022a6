"""What `--devices` means."""

import os
import socket
import stat
from pathlib import Path

import pytest

from jobs.devices import Slot, parse_devices


def test_one_process_on_the_cpu() -> None:
    """`cpu` is one process that has all cores and sees no GPU."""
    assert parse_devices("cpu") == [Slot("cpu-0", "cpu", "", None)]
    assert parse_devices("cpu")[0].environment["CUDA_VISIBLE_DEVICES"] == ""


def test_processes_share_the_cores() -> None:
    """`cpu:N` is N processes with an equal share of the cores, and never less than one."""
    cores = len(os.sched_getaffinity(0))
    slots = parse_devices("cpu:2")
    assert [slot.name for slot in slots] == ["cpu-0", "cpu-1"]
    assert {slot.threads for slot in slots} == {max(cores // 2, 1)}
    assert slots[0].environment["OMP_NUM_THREADS"] == str(max(cores // 2, 1))
    assert {slot.threads for slot in parse_devices(f"cpu:{cores * 3}")} == {1}


def test_gpus_are_pinned() -> None:
    """Each GPU is one process that sees that GPU alone, whether or not it is there."""
    slots = parse_devices("0,3")
    assert slots == [Slot("cuda-0", "cuda", "0"), Slot("cuda-3", "cuda", "3")]
    assert [slot.environment for slot in slots] == [
        {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
        {"CUDA_VISIBLE_DEVICES": "3", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
    ]


def test_gpus_and_the_cpu() -> None:
    """Both sorts may be named, with spaces between them."""
    assert [slot.name for slot in parse_devices("1, cpu")] == ["cuda-1", "cpu-0"]


@pytest.mark.parametrize(
    "text",
    ["", ",", "0,", "gpu", "cpu:0", "cpu:-1", "cpu:x", "cpu:2:3", "0:2", "-1", "1.5", "²", "all,0"],
)
def test_what_is_no_device(text: str) -> None:
    """The message says what may be written."""
    with pytest.raises(ValueError, match=r"is not a device: use cpu, cpu:N, GPU numbers, or all$"):
        parse_devices(text)


@pytest.mark.parametrize("text", ["0,0", "cpu,cpu", "cpu:2,cpu", "0,cpu,0"])
def test_a_device_that_is_named_twice(text: str) -> None:
    """Two processes on one device would fight for its memory."""
    with pytest.raises(ValueError, match=f"^'{text}' names a device twice$"):
        parse_devices(text)


def test_a_worker_is_named_after_its_device_and_host() -> None:
    """The name is the same after a restart."""
    assert parse_devices("cpu")[0].worker_name == f"cpu-0@{socket.gethostname()}"


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the driver's tool would be, and the only place where programs are."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path / "nvidia-smi"


def install(driver: Path, script: str) -> None:
    """A program that speaks as nvidia-smi does."""
    driver.write_text(f"#!/bin/sh\n{script}\n")
    driver.chmod(stat.S_IRWXU)


def test_all_without_a_driver(driver: Path) -> None:
    """Where there is no GPU, `all` is the CPU."""
    assert parse_devices("all") == parse_devices("cpu")


def test_all_asks_the_driver(driver: Path) -> None:
    """`all` is every GPU that the driver lists."""
    install(driver, '[ "$1" = --query-gpu=index ] && printf "0\\n1\\n"')
    assert parse_devices("all") == parse_devices("0,1")


def test_all_is_what_was_allotted(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a shared host `all` is no more than what a scheduler gave us, perhaps nothing."""
    install(driver, "printf '0\\n1\\n2\\n3\\n'")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert parse_devices("all") == parse_devices("3,1")
    for nothing in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", nothing)
        assert parse_devices("all") == parse_devices("cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8932f937")
    with pytest.raises(ValueError, match="'GPU-8932f937' in CUDA_VISIBLE_DEVICES"):
        parse_devices("all")


def test_all_with_a_driver_that_fails(driver: Path) -> None:
    """A driver that finds no device, or does not answer rightly, leaves the CPU."""
    install(driver, "echo NVIDIA-SMI has failed; exit 9")
    assert parse_devices("all") == parse_devices("cpu")
