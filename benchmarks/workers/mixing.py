"""Mixed traffic: against uniform traffic, and against others that batch the same pipeline."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from benchmarks.figures import Figure, alternated, ratio, shown
from benchmarks.workers.loads import Load, Picture, by_size, mixed, uniform
from benchmarks.workers.plant import Plant, until
from benchmarks.workers.rivals import QUIET_S, Kind
from benchmarks.workers.scale import Scale
from benchmarks.workers.warming import Numbers, counts, eager_calls, recompiles, warm


def measure(plant: Plant, load: Load, scale: Scale) -> Iterator[Figure]:
    """What mixing costs, and whether anything is compiled or runs eager in it."""
    numbers = Numbers()

    def of_one_key(pictures: Sequence[Picture]) -> float:
        return plant.span_s(plant.submit_jobs(load, pictures, wake=False))

    with plant.worker(scale.devices) as _:
        _warm(plant, load, scale, numbers)
        plant.beat()
        before = plant.counters()
        found, rates, spans = [], {size: list[float]() for size in load.sizes}, []
        count = max(scale.images // len(load.sizes), 1)
        for _ in range(scale.rounds):
            for size in load.sizes:
                first = numbers.take(count)
                alone = [
                    Picture(number, f"mug number {number}", number, size)
                    for number in range(first, first + count)
                ]
                rates[size].append(count / of_one_key(alone))
            pictures = mixed(load, scale.images, numbers.take(scale.images * 2))
            spans.append(of_one_key(pictures))
            ideal_s = sum(len(same) / rates[s][-1] for s, same in by_size(pictures).items())
            found.append(ideal_s / spans[-1])
        plant.beat()
        after = plant.counters()
    sizes = ", ".join(f"{size}: {shown(rates[size], 'images/s', 1)}" for size in load.sizes)
    yield Figure(
        "mixed_against_uniform",
        ratio(found, [1.0]),
        0.9,
        "of the time that each key alone would take",
        f"{load.name}, {len(pictures)} jobs in {len(load.sizes)} sizes and 3 priorities, ragged, "
        f"in no order: {shown(spans, 's', 2)}; jobs of one size alone: {sizes}; shares of each "
        f"round: {shown(found, '', 2)}",
        at_least=True,
    )
    compiled, eager = (
        recompiles(after) - recompiles(before),
        eager_calls(after) - eager_calls(before),
    )
    yield Figure(
        "recompiles_and_eager_calls",
        compiled + eager,
        0,
        "after warm-up",
        f"over those {scale.rounds} mixed and uniform runs, by the worker's own counters: "
        f"{compiled:.0f} recompiles, {eager:.0f} eager calls"
        + ("" if counts(after) else "; this worker counts nothing"),
    )


def _warm(plant: Plant, load: Load, scale: Scale, numbers: Numbers) -> None:
    """Have full batches compiled, and then the sizes of call that ragged ends are made in."""
    warm(plant, [load], numbers)
    one = replace(load, sizes=load.sizes[:1])

    def ragged() -> None:
        pictures = mixed(load, scale.images, numbers.take(2 * scale.images))
        plant.span_s(plant.submit_jobs(load, pictures, wake=False))

    warm(plant, [one], numbers, make=ragged)


def against(
    plant: Plant, load: Load, scale: Scale, kind: Kind, lost: dict[str, int]
) -> Iterator[Figure]:
    """Uniform and mixed traffic; what the other loses when it is killed is noted in ``lost``."""
    numbers = Numbers()

    def ours(pictures: Sequence[Picture]) -> float:
        since = plant.now()
        if len(by_size(pictures)) == 1:
            jobs = plant.submit_campaign(load, pictures)
        else:
            jobs = plant.submit_jobs(load, pictures, wake=True)
        return len(pictures) / plant.span_s(jobs, since=since)

    def same(count: int) -> list[Picture]:
        return uniform(load, count, numbers.take(count))

    def all_sorts() -> list[Picture]:
        return mixed(load, scale.images, numbers.take(2 * scale.images))

    with plant.worker(scale.devices) as _, kind.running(plant, load, scale) as rival:
        _warm(plant, load, scale, numbers)
        plain = alternated(
            scale.rounds,
            ours=lambda: ours(same(scale.images)),
            theirs=lambda: scale.images / rival.seconds(same(scale.images)),
        )
        many = len(all_sorts())
        ragged = alternated(
            scale.rounds,
            ours=lambda: ours(all_sorts()),
            theirs=lambda: many / rival.seconds(all_sorts()),
        )
        lost[kind.name] = rival.lost(scale.images)
    for what, found, target in (("uniform", plain, 1.0), ("mixed", ragged, 1.3)):
        yield Figure(
            f"{what}_against_{kind.name}",
            ratio(found["ours"], found["theirs"]),
            target,
            "times the rate",
            f"{load.name}, batches of {load.batch}, first request to last row: "
            f"{shown(found['ours'], 'images/s', 1)}; {kind.name}: "
            f"{shown(found['theirs'], 'images/s', 1)}",
            at_least=True,
        )


def measure_lost(
    plant: Plant, load: Load, scale: Scale, others: Mapping[str, int]
) -> Iterator[Figure]:
    """Images that are never made, if the process with the model is killed once on the way."""
    numbers = Numbers()
    with plant.worker(scale.devices) as worker, plant.sweeper():
        warm(plant, [replace(load, sizes=load.sizes[:1])], numbers)
        pictures = uniform(load, scale.images, numbers.take(scale.images))
        jobs = plant.submit_campaign(load, pictures)
        until("a part to be made", lambda: plant.succeeded(jobs) >= max(scale.images // 4, 1))
        worker.kill()
        plant.wait(jobs)
        lost = scale.images - plant.succeeded(jobs)
    listed = "; ".join(f"{name} lost {count}" for name, count in others.items())
    yield Figure(
        "lost_when_killed",
        lost,
        0,
        "images",
        f"of {scale.images} of {load.name} when the process with the model is killed once with -9 "
        f"after a quarter. {listed or 'No other was measured'}. What they are asked for is asked "
        "once; what is not stored when all requests have been answered, or when nothing has come "
        f"for {QUIET_S:.0f} s, counts as lost",
    )
