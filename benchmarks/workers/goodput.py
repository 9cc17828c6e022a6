"""A warm campaign against the bare compiled loop, and against a task per image."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from benchmarks.figures import Figure, alternated, ratio, shown
from benchmarks.workers.bare import BareLoops
from benchmarks.workers.loads import Load, uniform
from benchmarks.workers.plant import Plant
from benchmarks.workers.rivals import USUAL
from benchmarks.workers.scale import Scale
from benchmarks.workers.warming import Numbers, warm


def measure(plant: Plant, loads: Sequence[Load], scale: Scale) -> Iterator[Figure]:
    """The figures of both models."""
    numbers = Numbers()
    with (
        BareLoops.started(scale.slots, plant.outside) as bare,
        plant.worker(scale.devices) as _,
    ):
        for load in loads:
            bare.seconds(load, load.batch * len(scale.slots))
            warm(plant, [replace(load, sizes=load.sizes[:1])], numbers)
            found = alternated(
                scale.rounds,
                ours=partial(_campaign, plant, load, scale.images, numbers),
                bare=partial(_loop, bare, load, scale.images),
            )
            yield Figure(
                f"goodput_{load.name}",
                ratio(found["ours"], found["bare"]),
                0.9,
                "of the bare loop",
                f"campaign of {scale.images} images on {scale.devices}, {load.size}, "
                f"{load.steps} steps, batches of {load.batch}, {load.dtype}, first claim to last "
                f"commit: {shown(found['ours'], 'images/s', 1)}; as many bare compiled loops "
                f"to uint8 on the host: {shown(found['bare'], 'images/s', 1)}",
                at_least=True,
            )


def _campaign(plant: Plant, load: Load, count: int, numbers: Numbers) -> float:
    pictures = uniform(load, count, numbers.take(count))
    return count / plant.span_s(plant.submit_campaign(load, pictures))


def _loop(bare: BareLoops, load: Load, count: int) -> float:
    return count / bare.seconds(load, count)


def measure_per_image(plant: Plant, load: Load, scale: Scale) -> Iterator[Figure]:
    """One image per Celery task, in fp32 and in bf16."""
    numbers = Numbers()
    plain = replace(load, compiled=False, sizes=load.sizes[:1])
    with (
        plant.worker(scale.devices) as _,
        USUAL.running(plant, replace(plain, dtype="float32"), scale) as fp32,
    ):
        warm(plant, [replace(load, sizes=load.sizes[:1])], numbers)

        def campaign() -> float:
            pictures = uniform(load, scale.images, numbers.take(scale.images))
            since = plant.now()
            jobs = plant.submit_campaign(load, pictures)
            return scale.images / plant.span_s(jobs, since=since)

        few = uniform(load, scale.slow)
        found = alternated(scale.rounds, ours=campaign, fp32=lambda: scale.slow / fp32.seconds(few))
    with USUAL.running(plant, replace(plain, dtype="bfloat16"), scale) as bf16:
        found["bf16"] = [scale.slow / bf16.seconds(few) for _ in range(scale.rounds)]
    yield Figure(
        "against_task_per_image",
        ratio(found["ours"], found["fp32"]),
        3,
        "times the rate",
        f"{load.name}, submitted to last commit: {shown(found['ours'], 'images/s', 2)}; a Celery "
        f"task per image, eager fp32: {shown(found['fp32'], 'images/s', 2)}; the same in bf16: "
        f"{shown(found['bf16'], 'images/s', 2)}, which leaves "
        f"{ratio(found['ours'], found['bf16']):.1f} times",
        at_least=True,
    )
