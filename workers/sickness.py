"""What an error says about the worker it came up on, rather than about the jobs."""

import errno
from collections.abc import Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType
from uuid import UUID

import torch

from storage.ledger.finish import Released
from storage.objects import ClockSkewError


class Sickness(StrEnum):
    """What a worker can suffer from. Each value is the code of the jobs that felt it."""

    OUT_OF_MEMORY = "out_of_memory"
    DEVICE_ERROR = "device_error"
    DISK_FULL = "disk_full"
    CLOCK_SKEW = "clock_skew"


MESSAGES: Mapping[Sickness, str] = MappingProxyType(
    {
        Sickness.OUT_OF_MEMORY: "the device ran out of memory on this job alone: ask for a smaller "
        "size, or for a model or pool that leaves it more",
        Sickness.DEVICE_ERROR: "the device failed while it worked on this job; its worker has "
        "started anew, and tries the job alone",
        Sickness.DISK_FULL: "no space is left on the worker's disk for the model's files; the job "
        "goes on when there is, or on another worker",
        Sickness.CLOCK_SKEW: "the clock of the worker's machine is off, so that the object store "
        "refused the output; the job goes on when it is set, or on another worker",
    }
)
"""For who polls the job."""

# Of torch itself, of what it calls (cuBLAS, cuDNN), and of Triton.
_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "error: out of memory",
    "[CUDA]: out of memory",
    "_STATUS_ALLOC_FAILED",
)
_DEVICE = ("CUDA error", "CUDA driver error", "[CUDA]: ", "_STATUS_EXECUTION_FAILED")
_DISK = (errno.ENOSPC, errno.EDQUOT)
_DISK_TEXT = "No space left on device"


def sickness_of(error: BaseException) -> Sickness | None:
    """The worker's own trouble, found in an error or in what caused it; None: there is none."""
    return next((found for one in _causes(error) if (found := _sickness(one))), None)


def released(job_id: UUID, sickness: Sickness | None) -> Released:
    """A job that goes back and costs no attempt: the trouble was not its own."""
    if sickness is None:
        return Released(job_id)
    return Released(job_id, sickness.value, MESSAGES[sickness])


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _sickness(error: BaseException) -> Sickness | None:
    text = str(error)
    # Before the device's errors: some of them are no more than memory that has run out.
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(part in text for part in _MEMORY)
    ):
        return Sickness.OUT_OF_MEMORY
    if isinstance(error, torch.AcceleratorError) or (
        isinstance(error, RuntimeError) and any(part in text for part in _DEVICE)
    ):
        return Sickness.DEVICE_ERROR
    # Libraries that are not Python, such as safetensors, have errors of their own.
    if (isinstance(error, OSError) and error.errno in _DISK) or _DISK_TEXT in text:
        return Sickness.DISK_FULL
    if isinstance(error, ClockSkewError):
        return Sickness.CLOCK_SKEW
    return None
