"""What of the machine a container leaves us, as the kernel's files say it."""

from pathlib import Path

import psutil
import pytest

from jobs import machine

GIB = 2**30


def tree(root: Path, files: dict[str, str]) -> Path:
    """Files below a root of their own."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


@pytest.mark.parametrize(
    "files",
    [
        # Version 2, in a container of its own; and with the limit on a group around ours.
        {"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": str(GIB)},
        {
            "proc/self/cgroup": "0::/pods/mine",
            "sys/fs/cgroup/pods/mine/memory.max": "max",
            "sys/fs/cgroup/pods/memory.max": str(GIB),
        },
        # Version 1; and where the path is the host's.
        {
            "proc/self/cgroup": "5:cpu,memory:/mine\n0::/",
            "sys/fs/cgroup/memory/mine/memory.limit_in_bytes": str(GIB),
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        },
        {
            "proc/self/cgroup": "4:memory:/docker/123",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": str(GIB),
        },
    ],
)
def test_memory_is_limited_by_the_control_group(tmp_path: Path, files: dict[str, str]) -> None:
    """The least limit of all groups that we are in counts."""
    assert machine.memory_bytes(tree(tmp_path, files)) == GIB


def test_memory_without_a_limit(tmp_path: Path) -> None:
    """It is the machine's; so it is where there are no control groups."""
    assert machine.memory_bytes(tmp_path) == psutil.virtual_memory().total
    files = {"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": "max"}
    assert machine.memory_bytes(tree(tmp_path, files)) == psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("group", "limit", "used", "cached"),
    [
        ("0::/mine", "memory.max", "memory.current", "inactive_file"),
        (
            "4:memory:/mine",
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ],
)
def test_what_is_free_in_a_control_group(
    tmp_path: Path, group: str, limit: str, used: str, cached: str
) -> None:
    """Its limit without what is used, but with what is only cached; here of one around ours."""
    groups = tmp_path / "sys/fs/cgroup"
    stat = (groups / limit).parent / "memory.stat"
    files = {groups / limit: "900", groups / used: "500", stat: f"file 7\n{cached} 100"}
    tree(tmp_path, {"proc/self/cgroup": group, **{str(file): text for file, text in files.items()}})
    assert machine.free_bytes(tmp_path) == 500
    (groups / used).write_text("2000\n")
    assert machine.free_bytes(tmp_path) == 0
    (groups / limit).write_text("max\n")
    assert machine.free_bytes(tmp_path) > 1000


@pytest.mark.parametrize(
    ("files", "worth"),
    [
        ({"sys/fs/cgroup/cpu.max": "250000 100000"}, 3),
        ({"sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
        ({"sys/fs/cgroup/cpu.max": "max 100000"}, 8),
        ({"sys/fs/cgroup/cpu.max": "3200000 100000"}, 8),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/mine",
                "sys/fs/cgroup/cpu/mine/cpu.cfs_quota_us": "200000",
                "sys/fs/cgroup/cpu/mine/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            2,
        ),
        ({}, 8),
    ],
)
def test_time_is_limited_by_the_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], worth: int
) -> None:
    """A container that has the time of two and a half cores keeps three busy at most."""
    monkeypatch.setattr(machine, "cores", lambda: tuple(range(8)))
    root = tree(tmp_path, {"proc/self/cgroup": "0::/", **files})
    assert machine.cores_worth(root) == worth
