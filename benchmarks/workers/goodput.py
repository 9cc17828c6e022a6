"""A warm campaign against the bare compiled loop, and against a task per image."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from benchmarks.figures import Figure, alternated, ratio, shown
from benchmarks.workers.bare import BareLoops
from benchmarks.workers.loads import Load, Picture, uniform
from benchmarks.workers.plant import Plant
from benchmarks.workers.rivals import USUAL, Rival
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


def measure_per_image(plant: Plant, loads: Sequence[Load], scale: Scale) -> Iterator[Figure]:
    """One image per Celery task in one process with all threads, in fp32 and in bf16.

    That is how it is usually done. A process per core is what its best friend would try.
    """
    numbers = Numbers()
    usual = replace(scale, devices=scale.one)
    for load in loads:
        plain = replace(load, compiled=False, sizes=load.sizes[:1])
        fp32, bf16 = replace(plain, dtype="float32"), replace(plain, dtype="bfloat16")
        few = uniform(load, scale.slow)

        def rate(rival: Rival, few: Sequence[Picture] = few) -> float:
            return scale.slow / rival.seconds(few)

        def campaign(load: Load = load) -> float:
            pictures = uniform(load, scale.images, numbers.take(scale.images))
            since = plant.now()
            jobs = plant.submit_campaign(load, pictures)
            return scale.images / plant.span_s(jobs, since=since)

        with plant.worker(scale.devices) as _, USUAL.running(plant, fp32, usual) as rival:
            warm(plant, [replace(load, sizes=load.sizes[:1])], numbers)
            found = alternated(scale.rounds, ours=campaign, usual=partial(rate, rival))
        for name, same, on in (
            ("bf16", bf16, usual),
            ("per core", fp32, scale),
            ("per core in bf16", bf16, scale),
        ):
            with USUAL.running(plant, same, on) as rival:
                found[name] = [rate(rival) for _ in range(scale.rounds)]
        yield Figure(
            f"against_task_per_image_{load.name}",
            ratio(found["ours"], found["usual"]),
            3,
            "times the rate",
            f"submitted to last commit: {shown(found['ours'], 'images/s', 2)}; a Celery task per "
            f"image in one process, eager fp32: {shown(found['usual'], 'images/s', 2)}; "
            + "; ".join(
                f"{name}: {shown(found[name], 'images/s', 2)}, which leaves "
                f"{ratio(found['ours'], found[name]):.1f} times"
                for name in ("bf16", "per core", "per core in bf16")
            ),
            at_least=True,
        )
