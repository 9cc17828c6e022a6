"""The worker's own machine is at fault: memory, device, disk, clock."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

from jobs import doctor
from storage import models
from storage.models import BUILT_IN
from tests.faults.trial import Case, NotHereError, Trial

MEMORY_FOR = 3
OFF_S = 7200
SKEWED, RIGHT = "cpu-2", "cpu-3"


def out_of_memory(trial: Trial) -> None:
    """The device holds three pictures: larger calls are split, and stay small afterwards."""
    trial.house.orders.stand("generating", memory_for=MEMORY_FOR)
    # A batch key of its own, for which no size is known yet.
    trial.submit(16, guidance=trial.random.uniform(1, 9))
    trial.until(trial.ended, "the jobs are done in smaller calls")
    size = trial.value(
        "SELECT max(size) FROM batch_sizes WHERE batch_key IN"
        " (SELECT batch_key FROM jobs WHERE id = ANY(:ids))"
    )
    assert isinstance(size, int), "no size was kept"
    assert size <= MEMORY_FOR, f"the calibrated size is still {size}"
    trial.check_no_attempt_lost()


def device_assert(trial: Trial) -> None:
    """An assert on the device leaves it unusable: the process ends and starts anew."""
    trial.order("device-assert", "raise")
    trial.submit()
    worker = trial.done("device-assert")
    trial.until(
        lambda: trial.house.child_pid(worker.slot) not in (None, worker.pid), "a new process"
    )


def disk_full(trial: Trial) -> None:
    """There is no room for the model's files: said clearly, cleaned up, and tried again later."""
    name = f"scratch-{uuid4()}"
    card = replace(BUILT_IN["debug-diffusion"], name=name, revision=name)
    with trial.house.engine.begin() as connection:
        models.add(connection, card)
    scratch = trial.house.settings.cache_dir / "models"
    with _small_disk(scratch):
        trial.submit(4, model=name)
        trial.until(
            lambda: trial.value(
                "SELECT count(*) FROM jobs WHERE id = ANY(:ids) AND error ->> 'code' = 'disk_full'"
            ),
            "the jobs say that the disk is full",
        )
        trial.until(
            lambda: {path.suffix for path in scratch.iterdir()} == {".lock"},
            "the half-made files are gone",
        )
    trial.fault_at = trial.now()  # its end
    trial.until(trial.ended, "the jobs are done once there is room")
    trial.check_no_attempt_lost()


def clock_off(trial: Trial) -> None:
    """A worker's wall clock is two hours off: its work is given back, and the skew is named."""
    house = trial.house
    pool = f"clocks-{uuid4()}"
    card = replace(BUILT_IN["debug-diffusion"], name=pool, pool=pool)
    with house.engine.begin() as connection:
        models.add(connection, card)
    in_pool = {"PRESSWORK_POOL": pool}
    log = house.data / "logs" / f"{SKEWED}.log"
    said_before = log.stat().st_size if log.exists() else 0
    house.start_worker(SKEWED, {**in_pool, **_clock(OFF_S)})
    house.start_worker(RIGHT, in_pool)
    try:
        house.wait_for_workers(SKEWED, RIGHT)
        trial.order("denoising", "hold", to=RIGHT)
        trial.order("before-put", "hold", to=SKEWED)
        trial.submit(24, model=pool)
        trial.wait_for("denoising")
        trial.wait_for("before-put")
        trial.fault_at = held_at = trial.now()  # by a clock that is right
        # Longer than a lease: both renew theirs, whatever their own clocks say.
        house.until(lambda: trial.now() - held_at > house.lease_s * 1.2, "a lease is over")
        house.orders.release("before-put")
        trial.until(
            lambda: trial.value(
                "SELECT count(*) FROM jobs WHERE id = ANY(:ids) AND error ->> 'code' = 'clock_skew'"
            ),
            "the skewed worker has given its jobs back",
        )
        [clocks] = [it for it in doctor.examine(house.settings) if it.name == "worker clocks"]
        assert not clocks.ok, "doctor finds the clocks right"
        assert SKEWED in clocks.says, f"doctor names another worker: {clocks.says}"
        said = log.read_bytes()[said_before:].decode()
        assert f"this machine's clock is +{OFF_S}" in said, (
            "the worker's log does not name the skew"
        )
        house.orders.release("denoising")
        trial.until(trial.ended, "the jobs are done by the other worker")
        trial.check_no_attempt_lost()
    finally:
        house.stop(SKEWED)
        house.stop(RIGHT)


@contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    """A file system of 64 KiB at ``folder``, full at once; root only."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotHereError(f"a small disk cannot be mounted: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S607 (root's own)


def _clock(off_s: int) -> dict[str, str]:
    """The environment of a process whose wall clock is ``off_s`` ahead; others stay right."""
    spec = find_spec("libfaketime")
    if spec is None or spec.origin is None:
        raise NotHereError("libfaketime comes for Linux on x86_64 only")
    library = Path(spec.origin).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": f"+{off_s}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


CASES: dict[str, Case] = {
    "out-of-memory": out_of_memory,
    "device-assert": device_assert,
    "disk-full": disk_full,
    "clock-two-hours-off": clock_off,
}
