"""How GPUs and their parts (MIG) may be named, and which of them the driver knows."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

NAME = re.compile(
    r"[0-9]+|GPU-[0-9a-fA-F][0-9a-fA-F-]*|MIG-[0-9a-fA-F][0-9a-fA-F-]*"
    r"|MIG-GPU-[0-9a-fA-F][0-9a-fA-F-]*/[0-9]+/[0-9]+"
)
"""What CUDA_VISIBLE_DEVICES takes: a number, a UUID or the beginning of one, a part's UUID; the
last is that of drivers before R470, with the numbers of its GPU instance and compute instance."""

NOTHING = ("", "-1", "NoDevFiles")
"""How CUDA_VISIBLE_DEVICES says that there is none; the last is Slurm's."""

_GPU = re.compile(r"GPU (\d+): .*\(UUID: (GPU-[^)]+)\)")
_PART = re.compile(r"\s+MIG .*\(UUID: (MIG-[^)]+)\)")


@dataclass(frozen=True)
class Gpu:
    """A GPU as ``nvidia-smi -L`` lists it; ``parts`` are the UUIDs of its MIG devices."""

    number: str
    uuid: str
    parts: tuple[str, ...] = ()


def listed() -> list[Gpu] | None:
    """The GPUs by the driver's own tool; None: it is not here, or does not work.

    Asking torch would open every device.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    answer = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        return None
    gpus: list[Gpu] = []
    for line in answer.stdout.splitlines():
        if found := _GPU.match(line):
            gpus.append(Gpu(found[1], found[2]))
        elif gpus and (found := _PART.match(line)):
            gpus[-1] = Gpu(gpus[-1].number, gpus[-1].uuid, (*gpus[-1].parts, found[1]))
    return gpus


def allotted() -> list[str]:
    """Every GPU, or every part of one that is divided: those that are ours.

    CUDA_VISIBLE_DEVICES says so on a host that is shared; without it all are.

    Raises:
        ValueError: it names something else. Left out in silence, that would be paid for and idle.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return [name for gpu in listed() or () for name in (gpu.parts or (gpu.number,))]
    names = [name.strip() for name in given.split(",") if name.strip() not in NOTHING]
    for name in names:
        if not NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} in CUDA_VISIBLE_DEVICES is no GPU: use numbers, or UUIDs as "
                "`nvidia-smi -L` lists them"
            )
    return names


def identity(name: str, gpus: Sequence[Gpu]) -> str:
    """The UUID behind one of the names that `NAME` allows.

    Raises:
        ValueError: ``gpus`` has no such device, or more than one, or it is divided.
    """
    if "/" in name:
        whole, *instances = name.removeprefix("MIG-").split("/")
        divided = (gpu.uuid for gpu in gpus if gpu.parts)
        return "/".join([f"MIG-{_only(name, divided, whole)}", *instances])
    if name.startswith("MIG-"):
        return _only(name, (part for gpu in gpus for part in gpu.parts), name)
    if name.isdecimal():
        by_number = {gpu.number: gpu for gpu in gpus}
        found = by_number[_only(name, by_number, str(int(name)), whole=True)]
    else:
        by_uuid = {gpu.uuid: gpu for gpu in gpus}
        found = by_uuid[_only(name, by_uuid, name)]
    if found.parts:
        raise ValueError(f"GPU {name!r} is divided: name its parts, {', '.join(found.parts)}")
    return found.uuid


def _only(name: str, known: Iterable[str], start: str, *, whole: bool = False) -> str:
    names = list(known)
    found = [each for each in names if each.lower() == start.lower()]
    if not found and not whole:
        found = [each for each in names if each.lower().startswith(start.lower())]
    if len(found) == 1:
        return found[0]
    those = ", ".join(found or names) or "none"
    if found:
        raise ValueError(f"{name!r} may be any of {those}: write more of it")
    raise ValueError(f"there is no GPU {name!r}; those that `nvidia-smi -L` lists are: {those}")
