"""Memory over a long life: a runner over six models, read at the same point of each cycle."""

import gc
import json
import logging
import subprocess
import sys
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import psutil

from benchmarks.figures import Figure
from benchmarks.workers.plant import NothingComesError, Plant
from benchmarks.workers.scale import Scale

REQUESTS: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "debug-diffusion": ("image", {"prompt": "mug", "size": "64x64", "steps": 2}),
        "debug-gan": ("gan", {"label": "rings"}),
        "debug-vae": ("vae", {"mode": "sample", "size": "64x64"}),
        "debug-lm": ("text", {"recipe": "headline", "text": "mug", "max_tokens": 8}),
        "debug-sound": ("sound", {"prompt": "mug", "duration_s": 0.5, "steps": 2}),
        "debug-video": ("video", {"prompt": "mug", "size": "64x64", "frames": 1, "steps": 2}),
    }
)
"""Six models that need nothing but what comes with the product, each of another family."""
EACH = 7
"""Jobs of each model in a cycle."""
EARLY, LATE = 200, 2000


def measure(plant: Plant, scale: Scale) -> Iterator[Figure]:
    """The figure of memory, from a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(scale.jobs)],
        env=dict(plant.environment),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise NothingComesError("the runner has failed: see above")
    read = {int(count): float(mib) for count, mib in json.loads(done.stdout).items()}
    jobs = sorted(read)
    early = next(count for count in jobs if count >= min(EARLY, jobs[-1] // 2))
    yield Figure(
        "memory_over_a_life",
        read[jobs[-1]] / read[early],
        1.05,
        "of what was resident early on",
        f"a runner over {len(REQUESTS)} models in turn, after gc at the end of a cycle of "
        f"{len(REQUESTS) * EACH} jobs: {read[early]:.0f} MiB after {early} jobs, "
        f"{read[jobs[-1]]:.0f} MiB after {jobs[-1]}",
    )


def main() -> None:
    """Run cycles until so many jobs are done; print what was resident after each, in MiB."""
    from jobs.services import open_services  # noqa: PLC0415
    from jobs.settings import Settings  # noqa: PLC0415
    from jobs.submissions import JobSubmission, submit_job  # noqa: PLC0415
    from storage import tenants  # noqa: PLC0415
    from workers.family import Device  # noqa: PLC0415
    from workers.pulse import Pulse  # noqa: PLC0415
    from workers.runner import Runner  # noqa: PLC0415

    logging.basicConfig(level=logging.ERROR)
    wanted = int(sys.argv[1])
    read = {}
    settings = Settings()
    with open_services(settings, "benchmark") as services:
        with services.engine.begin() as connection:
            tenant_id = tenants.ensure(connection, settings.tenant)
        pulse = Pulse(services.engine, name="life", pool=settings.pool, device="cpu-0", every_s=5)
        pulse.start()
        runner = Runner(
            settings,
            services.engine,
            services.objects,
            pulse,
            Device("cpu"),
            name="life",
            stopping=bool,
        )
        done = 0
        while done < wanted:
            for model, (kind, request) in REQUESTS.items():
                for _ in range(EACH):
                    asked = {**request, "model": model, "seed": done}
                    submit_job(services, tenant_id, JobSubmission(kind=kind, request=asked))
                    done += 1
                while runner.run_next():
                    pass
            gc.collect()
            read[done] = psutil.Process().memory_info().rss / 2**20
        runner.close()
        pulse.stop()
    print(json.dumps(read))


if __name__ == "__main__":
    main()
