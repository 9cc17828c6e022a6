"""The usual way: a Celery task per image, which calls the pipeline, stores, and writes a row."""

from io import BytesIO
from typing import Any

import torch
from celery import Celery
from celery.signals import worker_process_init
from diffusers import DiffusionPipeline

from benchmarks.workers.alternatives.storing import Order, Store, received
from jobs.kinds.sizes import parse_size

QUEUE = "benchmark-per-image"

ORDER = Order.given()
app = Celery("per_image", broker=ORDER.broker_url)
app.conf.task_default_queue = QUEUE
app.conf.task_ignore_result = True
app.conf.task_acks_late = True
app.conf.worker_prefetch_multiplier = 1
app.conf.worker_proc_alive_timeout = 300

_in_child: dict[str, Any] = {}


def load(**_: Any) -> None:
    """Once per process, as every guide says."""
    _in_child["store"] = Store(ORDER)
    pipeline = DiffusionPipeline.from_pretrained(
        ORDER.load.folder, dtype=getattr(torch, ORDER.load.dtype)
    )
    pipeline.set_progress_bar_config(disable=True)
    _in_child["pipeline"] = pipeline.to(ORDER.load.device)


def make(message: dict[str, Any]) -> None:
    """One image."""
    run, picture = received(message)
    width, height = parse_size(picture.size)
    with torch.inference_mode():
        image = _in_child["pipeline"](
            picture.prompt,
            generator=torch.Generator("cpu").manual_seed(picture.seed),
            width=width,
            height=height,
            num_inference_steps=ORDER.load.steps,
            guidance_scale=ORDER.load.guidance,
        ).images[0]
    buffer = BytesIO()
    image.save(buffer, "PNG")
    _in_child["store"].save(run, picture, buffer.getvalue())


worker_process_init.connect(load, weak=False)
app.task(make, name="make")
