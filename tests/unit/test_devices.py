"""What `--devices` means."""

import socket
import stat
from pathlib import Path

import pytest

from jobs import machine
from jobs.devices import Slot, parse_devices
from workers.devices import slot_of

GPU = "GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f"
WHOLE = "GPU-9ef1da52-8dfb-5327-6a00-17097ba591a9"
PART = "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f"
OLD_PART = f"MIG-{GPU}/7/0"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing around us says which devices, or how many threads."""
    for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The cores that this process may use; to be filled."""
    allowed: list[int] = []
    monkeypatch.setattr(machine, "cores", lambda: tuple(allowed))
    monkeypatch.setattr(machine, "cores_worth", lambda: len(allowed))
    return allowed


def test_one_process_on_the_cpu(cores: list[int]) -> None:
    """`cpu` is one process that keeps all cores and sees no GPU, and whose threads do not spin."""
    cores += [2, 3, 7]
    (slot,) = parse_devices("cpu")
    assert slot == Slot("cpu-0", "cpu", "", (), 3, 1)
    assert slot.environment == {
        "CUDA_VISIBLE_DEVICES": "",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "OMP_NUM_THREADS": "3",
    }


def test_processes_divide_the_cores(cores: list[int]) -> None:
    """`cpu:N` is N processes with cores of their own, all of them, and as many threads."""
    cores += [0, 1, 4, 5, 9]
    slots = parse_devices("cpu:2")
    assert [slot.name for slot in slots] == ["cpu-0", "cpu-1"]
    assert [slot.cores for slot in slots] == [(0, 1), (4, 5, 9)]
    assert [slot.environment["OMP_NUM_THREADS"] for slot in slots] == ["2", "3"]
    assert {slot.shares for slot in slots} == {2}


def test_more_processes_than_cores(cores: list[int]) -> None:
    """They share them evenly, with one thread each."""
    cores += [0, 1]
    slots = parse_devices("cpu:4")
    assert [slot.cores for slot in slots] == [(0,), (1,), (0,), (1,)]
    assert {slot.threads for slot in slots} == {1}


def test_a_container_that_sees_more_cores_than_it_has_time_for(
    cores: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads are as many as can run at the same time."""
    cores += range(64)
    monkeypatch.setattr(machine, "cores_worth", lambda: 4)
    assert [slot.threads for slot in parse_devices("cpu")] == [4]
    slots = parse_devices("cpu:2")
    assert [(len(slot.cores), slot.threads) for slot in slots] == [(32, 2), (32, 2)]


def test_what_the_environment_says_about_threads(
    cores: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer threads may be asked for, not more than there are cores; and how they wait."""
    cores += range(8)
    for wanted, threads in (("1", 1), ("3,2", 3), ("100", 4), ("0", 4), ("many", 4)):
        monkeypatch.setenv("OMP_NUM_THREADS", wanted)
        assert {slot.threads for slot in parse_devices("cpu:2")} == {threads}


def test_gpus_are_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each GPU is one process that sees that GPU alone, whether or not it is there."""
    monkeypatch.setenv("PATH", str(tmp_path))
    slots = parse_devices("0,3")
    assert slots == [Slot("cuda-0", "cuda", "0"), Slot("cuda-3", "cuda", "3")]
    assert [slot.environment for slot in slots] == [
        {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
        {"CUDA_VISIBLE_DEVICES": "3", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
    ]


def test_gpus_by_uuid() -> None:
    """UUIDs, the beginning of one, and MIG parts are names; each is fit for a file's name."""
    given = [GPU, "GPU-8932f937", PART, OLD_PART]
    slots = parse_devices(",".join(given))
    assert [slot.visible for slot in slots] == given
    assert [slot.name for slot in slots] == [
        f"cuda-{GPU}",
        "cuda-GPU-8932f937",
        f"cuda-{PART}",
        f"cuda-MIG-{GPU}-7-0",
    ]
    for slot in slots:
        assert slot_of(slot.name, "", 1).type == "cuda"


def test_gpus_and_the_cpu() -> None:
    """Both sorts may be named, with spaces between them."""
    assert [slot.name for slot in parse_devices("1, cpu")] == ["cuda-1", "cpu-0"]


@pytest.mark.parametrize(
    "text",
    [
        *("", ",", "0,", "gpu", "cpu:0", "cpu:-1", "cpu:x", "cpu:2:3", "cpu:", "0:2", "-1", "1.5"),
        *("²", "all,0", "GPU-", "GPU-x", "GPU-1/2", "MIG-", "MIG-1/7/0", "MIG-GPU-1/7", "../0"),
    ],
)
def test_what_is_no_device(text: str) -> None:
    """The message says what may be written."""
    with pytest.raises(
        ValueError, match=r"is not a device: use cpu, cpu:N, GPU numbers or UUIDs, or all$"
    ):
        parse_devices(text)


@pytest.mark.parametrize("text", ["0,0", "cpu,cpu", "cpu:2,cpu", "0,cpu,0", f"{PART},{PART}"])
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
    return tmp_path / "nvidia-smi"


def install(driver: Path, script: str) -> None:
    """A program that speaks as nvidia-smi does."""
    driver.write_text(f"#!/bin/sh\n{script}\n")
    driver.chmod(stat.S_IRWXU)


def test_all_without_a_driver(driver: Path) -> None:
    """Where there is no GPU, `all` is the CPU."""
    assert parse_devices("all") == parse_devices("cpu")


LISTING = f"""\
GPU 0: A100-SXM4-40GB (UUID: {GPU})
  MIG 1g.5gb      Device  0: (UUID: {PART})
  MIG 1g.5gb Device 1: (UUID: {OLD_PART})
GPU 1: NVIDIA H100 80GB HBM3 (UUID: {WHOLE})
GPU 2: NVIDIA H100 80GB HBM3 (UUID: GPU-9ef1d000-0000-5327-6a00-17097ba591a9)
"""


@pytest.fixture
def listing(driver: Path) -> None:
    """A driver that knows a divided GPU and two whole ones."""
    install(driver, f"[ \"$1\" = -L ] && echo '{LISTING}'")


def test_all_asks_the_driver(listing: None) -> None:
    """`all` is every GPU that the driver lists, in its parts where it is divided."""
    assert [slot.visible for slot in parse_devices("all")] == [PART, OLD_PART, "1", "2"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("3", "there is no GPU '3'; those that `nvidia-smi -L` lists are: 0, 1, 2"),
        ("GPU-abc", f"there is no GPU 'GPU-abc'; .*: {GPU}, {WHOLE}"),
        ("MIG-abc", f"there is no GPU 'MIG-abc'; .*: {PART}, {OLD_PART}"),
        (f"MIG-{WHOLE}/7/0", f"there is no GPU 'MIG-{WHOLE}/7/0'; .*: {GPU}$"),
        ("GPU-9ef1d", "'GPU-9ef1d' may be any of .*: write more of it"),
        ("0", f"GPU '0' is divided: name its parts, {PART}, {OLD_PART}"),
        (GPU, f"GPU '{GPU}' is divided"),
        (f"1,{WHOLE}", f"'1,{WHOLE}' names a device twice"),
        (f"1,{WHOLE[:12].lower().replace('gpu', 'GPU')}", "names a device twice"),
    ],
)
def test_devices_that_the_driver_does_not_have(listing: None, text: str, says: str) -> None:
    """Where the driver knows the devices, the message says which ones there are."""
    with pytest.raises(ValueError, match=says):
        parse_devices(text)


def test_devices_that_the_driver_has(listing: None) -> None:
    """By number, by as much of the UUID as is needed, and parts in both ways of naming them."""
    text = f"1,GPU-9ef1d0,{PART[:10]},{OLD_PART}"
    assert [slot.visible for slot in parse_devices(text)] == text.split(",")


def test_all_is_what_was_allotted(listing: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a shared host `all` is no more than what a scheduler gave us, perhaps nothing."""
    for some in ("2,1", WHOLE, f"{PART},{OLD_PART}"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", some)
        assert parse_devices("all") == parse_devices(some)
    for nothing in ("", "-1", "NoDevFiles"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", nothing)
        assert parse_devices("all") == parse_devices("cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,cpu")
    with pytest.raises(ValueError, match="'cpu' in CUDA_VISIBLE_DEVICES is no GPU"):
        parse_devices("all")


def test_all_with_a_driver_that_fails(driver: Path) -> None:
    """A driver that finds no device, or does not answer rightly, leaves the CPU."""
    install(driver, "echo NVIDIA-SMI has failed; exit 9")
    assert parse_devices("all") == parse_devices("cpu")
    assert parse_devices("5") == [Slot("cuda-5", "cuda", "5")]
