"""How much of this machine we may use: its cores and memory, or what our container has of them."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

ROOT = Path("/")
_IN_USE = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Of versions 2 and 1: the limit, what is used, and how much of that is a cache to be dropped."""


def cores() -> tuple[int, ...]:
    """The numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def cores_worth(root: Path = ROOT) -> int:
    """As many cores as can be kept busy: a container may see 64, and have the time of two."""
    quotas = [float("inf")]
    for given in _values("cpu", "cpu.max", root):  # cgroup v2
        quota, period = given.split()
        if quota != "max":
            quotas.append(int(quota) / int(period))
    periods = _values("cpu", "cpu.cfs_period_us", root)  # v1
    for quota, period in zip(_values("cpu", "cpu.cfs_quota_us", root), periods, strict=True):
        if int(quota) > 0:
            quotas.append(int(quota) / int(period))
    return min(len(cores()), max(math.ceil(min(quotas)), 1)) if len(quotas) > 1 else len(cores())


def memory_bytes(root: Path = ROOT) -> int:
    """The memory that there is, or the limit of our container; beyond that the kernel kills."""
    limits = [
        int(given)
        for name in ("memory.max", "memory.limit_in_bytes")
        for given in _values("memory", name, root)
        if given != "max"
    ]
    return min([psutil.virtual_memory().total, *limits])


def free_bytes(root: Path = ROOT) -> int:
    """The memory that nobody uses: of the machine, and of what each control group may have."""
    return min([psutil.virtual_memory().available, *_free_in_groups(root)])


def _free_in_groups(root: Path) -> Iterator[int]:
    for group in _groups("memory", root):
        for limit, used, cached_in in _IN_USE:
            with suppress(OSError, ValueError):  # not there, or ``max``
                left = _number(group / limit) - _number(group / used)
                yield max(left + _entry(group / "memory.stat", cached_in), 0)


def _number(file: Path) -> int:
    return int(file.read_text("ascii"))


def _entry(file: Path, name: str) -> int:
    for line in file.read_text("ascii").splitlines():
        if line.startswith(f"{name} "):
            return int(line.split()[1])
    return 0


def _values(controller: str, name: str, root: Path) -> Iterator[str]:
    """What a file says in each control group that has it."""
    for group in _groups(controller, root):
        if (group / name).is_file():
            yield (group / name).read_text("utf-8").strip()


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """The folders of the control groups that we are in: our own, and those around it.

    See cgroups(7): a line of /proc/self/cgroup is ``number:controllers:path``, without controllers
    for version 2. In a container the path may be the host's; what we see is its root then.
    """
    groups = root / "proc" / "self" / "cgroup"
    if not groups.is_file():
        return
    for line in groups.read_text("utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys" / "fs" / "cgroup" / (controller if controllers else "")
        group = top / path.strip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(top):
                yield folder
