"""Whether a seed gives the same picture alone, in a batch and compiled."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import text

from benchmarks.figures import Figure
from benchmarks.workers.loads import Load, Picture
from benchmarks.workers.plant import Plant
from benchmarks.workers.scale import Scale
from benchmarks.workers.warming import Numbers, warm

Pixels = NDArray[np.int16]


@dataclass(frozen=True)
class Difference:
    """Between pictures, in steps of 255."""

    most: float
    mean: float
    p999: float

    def __str__(self) -> str:
        return f"mean {self.mean:.3f}, p99.9 {self.p999:.0f}, most {self.most:.0f}"


def measure(plant: Plant, load: Load, scale: Scale) -> Iterator[Figure]:
    """In fp32 to one step of 255; what it is in bf16."""
    one = replace(load, sizes=load.sizes[:1])
    fp32 = _differences(plant, replace(one, dtype="float32"), scale)
    yield Figure(
        "same_seed_fp32",
        max(difference.most for difference in fp32.values()),
        1,
        "steps of 255 at most",
        f"{one.name}, {one.batch} pictures, against alone and eager: {_listed(fp32)}",
    )
    bf16 = _differences(plant, replace(one, dtype="bfloat16"), scale)
    yield Figure(
        "same_seed_bf16",
        max(difference.mean for difference in bf16.values()),
        1,
        "steps of 255 in the mean",
        f"{one.name}, {one.batch} pictures, against alone and eager in bf16: {_listed(bf16)}",
    )


def _listed(differences: Mapping[str, Difference]) -> str:
    return "; ".join(f"{name}: {difference}" for name, difference in differences.items())


def _differences(plant: Plant, load: Load, scale: Scale) -> dict[str, Difference]:
    """Of each way of making them, from those made alone and eager."""
    pictures = [
        Picture(number, f"mug number {number}", 1000 + number, load.size)
        for number in range(load.batch)
    ]
    found: dict[str, Difference] = {}
    settings = {"PRESSWORK_DTYPE": load.dtype}
    with plant.worker(**settings, PRESSWORK_COMPILE="off") as _:
        alone = [pixels for picture in pictures for pixels in _made(plant, load, [picture])]
        found["in a batch"] = difference(alone, _made(plant, load, pictures))
    if scale.compiled:
        with plant.worker(**settings) as _:
            warm(plant, [load], Numbers())
            found["compiled, in a batch"] = difference(alone, _made(plant, load, pictures))
    return found


def difference(one: Sequence[Pixels], other: Sequence[Pixels]) -> Difference:
    """Over all pixels of all pictures."""
    steps = np.abs(np.stack(one) - np.stack(other))
    return Difference(float(steps.max()), float(steps.mean()), float(np.percentile(steps, 99.9)))


def _made(plant: Plant, load: Load, pictures: Sequence[Picture]) -> list[Pixels]:
    """The pictures as the product stores them, each made anew."""
    jobs = plant.submit_jobs(load, pictures, wake=False, anew=True)
    plant.span_s(jobs)
    query = text("SELECT object_key FROM artifacts WHERE job_id = :id")
    with plant.services.engine.begin() as connection:
        keys = [connection.execute(query, {"id": job}).scalar_one() for job in jobs]
    return [
        np.asarray(Image.open(BytesIO(plant.services.objects.get(key))).convert("RGB"), np.int16)
        for key in keys
    ]
