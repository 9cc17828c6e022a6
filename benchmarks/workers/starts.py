"""From a loaded model to the first compiled batch, with what others have compiled and without."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from uuid import uuid4

from benchmarks.figures import Figure, alternated, ratio, shown
from benchmarks.workers.loads import Load
from benchmarks.workers.plant import NothingComesError, Plant, Worker
from benchmarks.workers.scale import Scale
from benchmarks.workers.warming import Numbers, warm

LOADED = r"^(\S+ \S+) INFO workers\.\S+: loaded {model}@"
"""As the worker's log says it, the time first."""


def measure(plant: Plant, load: Load, scale: Scale) -> Iterator[Figure]:
    """The figure of warm starts: each worker has an empty cache on its machine."""
    numbers = Numbers()
    one = replace(load, sizes=load.sizes[:1])

    def start(key: str) -> float:
        cache = plant.ground.folder / f"cache-{uuid4().hex}"
        settings = {
            "PRESSWORK_CACHE_DIR": str(cache),
            "PRESSWORK_SIGNING_KEY": key,
            # It reports three times in a lease: that is how exactly this can be known.
            "PRESSWORK_LEASE_S": "3",
        }
        with plant.worker(scale.one, **settings) as worker:
            warm(plant, [one], numbers)
            ready = time.time()
            loaded = loaded_at(worker, one.name)
        shutil.rmtree(cache, ignore_errors=True)
        return ready - loaded

    # Results that another key has signed are refused, so each of these compiles anew.
    saved = uuid4().hex * 2
    start(saved)
    found = alternated(
        min(scale.rounds, 2), saved=lambda: start(saved), without=lambda: start(uuid4().hex * 2)
    )
    yield Figure(
        "start_with_saved_results",
        ratio(found["saved"], found["without"]),
        0.35,
        "of the time without",
        f"{load.name}, {one.size}, model loaded to the first batch without an eager call, the "
        f"cache on the machine empty: {shown(found['saved'], 's', 1)} with compiled code from the "
        f"bucket, {shown(found['without'], 's', 1)} without",
    )


def loaded_at(worker: Worker, model: str) -> float:
    """When the model was loaded, in seconds since 1970, by the worker's log."""
    said = worker.logged(LOADED.format(model=model))
    if not said:
        raise NothingComesError(f"the worker's log does not say that it has loaded {model}")
    return datetime.strptime(said[0][1], "%Y-%m-%d %H:%M:%S,%f").astimezone().timestamp()
