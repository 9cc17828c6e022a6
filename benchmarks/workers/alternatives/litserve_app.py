"""LitServe: an HTTP server that gathers what is asked for at the same time.

It gathers from one queue whatever the size, so a gathering may have a batch of each size, which are
then made one after the other. Its option to start a worker again that has died is on.
"""

from typing import Any

import litserve
from fastapi import Request

from benchmarks.workers.alternatives.storing import Order, Store, received
from benchmarks.workers.pipeline import Pipeline

GATHER_S = 0.05


class MakePictures(litserve.LitAPI):  # type: ignore[misc]
    """As in its documentation: decode, predict a batch, encode."""

    def setup(self, device: Any) -> None:  # noqa: ARG002 (the order says which)
        """In the worker's process."""
        order = Order.given()
        self._store = Store(order)
        self._pipeline = Pipeline(order.load)
        self._pipeline.warm(order.load.sizes)

    def decode_request(self, request: Request, **_: Any) -> Any:
        """A picture; what is said to be a request is its JSON by now."""
        return request

    def predict(self, x: Any, **_: Any) -> Any:
        """Make and store a gathering."""
        given = [received(message) for message in x]
        runs = {picture.number: run for run, picture in given}
        for pictures, arrays in self._pipeline.make_all([picture for _, picture in given]):
            self._store.save_all(
                [(runs[p.number], p, array) for p, array in zip(pictures, arrays, strict=True)]
            )
        return [picture.number for _, picture in given]

    def encode_response(self, output: Any, **_: Any) -> Any:
        """Which it was."""
        return {"stored": output}


def main() -> None:
    """Serve until the end."""
    order = Order.given()
    gathered = order.load.batch * len(order.load.sizes)
    api = MakePictures(max_batch_size=gathered, batch_timeout=GATHER_S, api_path="/make")
    server = litserve.LitServer(
        api,
        accelerator="cpu" if order.load.device == "cpu" else "cuda",
        # On a CPU processes count as devices; GPUs are found, one worker for each.
        devices=order.processes if order.load.device == "cpu" else "auto",
        restart_workers=True,
        timeout=600,
    )
    server.run(port=order.port, host="127.0.0.1", generate_client_file=False, num_api_servers=1)


if __name__ == "__main__":
    main()
