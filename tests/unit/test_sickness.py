"""Which errors are the worker's own trouble."""

import errno

import pytest
import torch

from storage.objects import ClockSkewError, ObjectStoreError
from workers.sickness import MESSAGES, Sickness, sickness_of


@pytest.mark.parametrize(
    ("error", "sickness"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory"),
        (torch.AcceleratorError("CUDA error: out of memory"), "out_of_memory"),
        (RuntimeError("CUDA driver error: out of memory"), "out_of_memory"),
        (RuntimeError("Triton Error [CUDA]: out of memory"), "out_of_memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), "device_error"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "device_error"),
        (RuntimeError("Triton Error [CUDA]: device-side assert triggered"), "device_error"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "device_error"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), "disk_full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk_full"),
        (Exception("I/O error: No space left on device (os error 28)"), "disk_full"),
        (ClockSkewError("set its clock"), "clock_skew"),
        (ObjectStoreError("does not answer"), None),
        (FileNotFoundError(errno.ENOENT, "No such file"), None),
        (RuntimeError("The size of tensor a must match the size of tensor b"), None),
        (ValueError("CUDA error"), None),
    ],
    ids=str,
)
def test_kinds_of_errors(error: Exception, sickness: str | None) -> None:
    """Each library's way of saying it is known, and nothing else is taken for it."""
    assert sickness_of(error) == sickness


def test_the_allocator() -> None:
    """What torch raises on a CPU without memory is known by its text alone."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert sickness_of(caught.value) is Sickness.OUT_OF_MEMORY


def write_to_full_disk() -> None:
    """Fail as Python does."""
    raise OSError(errno.ENOSPC, "No space left on device")


def behind_another(*, cause: bool) -> None:
    """Fail as a library does whose disk is full: with its own error, from the other or not."""
    try:
        write_to_full_disk()
    except OSError as error:
        if cause:
            raise ValueError("not a model") from error
        raise ValueError("not a model")  # noqa: B904 (as libraries do)


@pytest.mark.parametrize("cause", [True, False])
def test_what_lies_behind_an_error(cause: bool) -> None:  # noqa: FBT001 (a parameter of pytest's)
    """It is found as a cause, and as what was being handled."""
    with pytest.raises(ValueError, match="not a model") as caught:
        behind_another(cause=cause)
    assert sickness_of(caught.value) is Sickness.DISK_FULL


def test_every_sickness_has_words() -> None:
    """Who polls a job is told something, whatever ailed its worker."""
    assert MESSAGES.keys() == set(Sickness)
