"""celery-batches: tasks are gathered by the worker, and run as one.

As its documentation has it, with a task for each size, since a task gathers whatever it gets. They
are acknowledged late, and enough of them is prefetched for the next batch to be there. Priorities
are Celery's own for this broker.
"""

from typing import Any

from celery import Celery
from celery.signals import worker_process_init
from celery_batches import Batches, SimpleRequest

from benchmarks.workers.alternatives.storing import Order, Store, received
from benchmarks.workers.pipeline import Pipeline

QUEUE = "benchmark-batches"
FLUSH_S = 0.2

ORDER = Order.given()
app = Celery("batches", broker=ORDER.broker_url)
app.conf.task_default_queue = QUEUE
app.conf.task_ignore_result = True
app.conf.task_acks_late = True
app.conf.worker_prefetch_multiplier = 2 * ORDER.load.batch * len(ORDER.load.sizes)
app.conf.worker_proc_alive_timeout = 300
app.conf.broker_transport_options = {
    "priority_steps": list(range(3)),
    "queue_order_strategy": "priority",
}

_in_child: dict[str, Any] = {}


def load(**_: Any) -> None:
    """Once per process; each size is compiled before anything is taken."""
    _in_child["store"] = Store(ORDER)
    _in_child["pipeline"] = pipeline = Pipeline(ORDER.load)
    pipeline.warm(ORDER.load.sizes)


def make(requests: list[SimpleRequest]) -> None:
    """A batch of one size, or what of it came in time."""
    given = [received(request.args[0]) for request in requests]
    runs = {picture.number: run for run, picture in given}
    for pictures, arrays in _in_child["pipeline"].make_all([picture for _, picture in given]):
        _in_child["store"].save_all(
            [(runs[p.number], p, array) for p, array in zip(pictures, arrays, strict=True)]
        )


worker_process_init.connect(load, weak=False)
for size in ORDER.load.sizes:
    app.task(
        make,
        name=f"make-{size}",
        base=Batches,
        flush_every=ORDER.load.batch,
        flush_interval=FLUSH_S,
    )
