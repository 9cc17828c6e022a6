"""Ray Serve: a deployment with dynamic batching, for each size a batch of its own.

While one batch is stored the next is made: that is what its ``max_concurrent_batches`` is for.
"""

import asyncio
import os
import time
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from benchmarks.workers.alternatives.storing import Order, Store, received
from benchmarks.workers.pipeline import Pipeline

GATHER_S = 0.05


@serve.deployment(max_ongoing_requests=512, health_check_period_s=2)
class MakePictures:
    """A replica with the pipeline."""

    def __init__(self) -> None:
        order = Order.given()
        self._store = Store(order)
        self._pipeline = Pipeline(order.load)
        self._pipeline.warm(order.load.sizes)
        self._device = asyncio.Lock()
        self._gather = {}
        for size in order.load.sizes:
            self._gather[size] = serve.batch(
                max_batch_size=order.load.batch,
                batch_wait_timeout_s=GATHER_S,
                max_concurrent_batches=2,
            )(self._gathering())

    def _gathering(self) -> Any:
        async def make(messages: list[Any]) -> list[int]:
            given = [received(message) for message in messages]
            async with self._device:
                arrays = await asyncio.to_thread(self._pipeline.make, [p for _, p in given])
            made = [(run, p, array) for (run, p), array in zip(given, arrays, strict=True)]
            await asyncio.to_thread(self._store.save_all, made)
            return [picture.number for _, picture in given]

        return make

    async def __call__(self, request: Request) -> Any:
        """A picture, made with those that are asked for at the same time."""
        message = await request.json()
        return {"stored": await self._gather[message["size"]](message)}


def main() -> None:
    """Serve until the end."""
    order = Order.given()
    ray.init(
        num_cpus=os.cpu_count(),
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": order.as_environment()},
        object_store_memory=200 * 1024 * 1024,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": order.port})
    replicas: Any = MakePictures
    application = replicas.options(num_replicas=order.processes).bind()
    serve.run(application, route_prefix="/make", name="make")
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
