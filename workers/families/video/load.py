"""From a diffusers directory to video pipelines on the device: one per task, weights shared."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import diffusers

from jobs.kinds.values import read_details
from jobs.kinds.video import Task, VideoDetails
from storage.models import ModelCard
from workers import memory, pipelines, pretrained
from workers.family import Device

_LTX: Mapping[Task, str] = MappingProxyType(
    {"text-to-video": "LTXPipeline", "image-to-video": "LTXImageToVideoPipeline"}
)
SIBLINGS: Mapping[str, Mapping[Task, str]] = MappingProxyType(
    {"LTXPipeline": _LTX, "LTXImageToVideoPipeline": _LTX}
)
"""Classes that work with the same components, by task. Any other does what its call tells of."""


class Pipeline:
    """A pipeline of diffusers, and by which names its call takes what we have to give."""

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self.arguments = frozenset(inspect.signature(pipeline.__call__).parameters)
        frames = self._first("num_frames", "video_length")
        if frames is None:
            raise ValueError(f"{type(pipeline).__name__} makes no videos")
        self.frames = frames
        self.fps = self._first("frame_rate", "fps", "target_fps")
        self.guidance = self._first("guidance_scale", "max_guidance_scale")

    @property
    def tasks(self) -> frozenset[Task]:
        """What its call can start from."""
        if "image" not in self.arguments:
            return frozenset({"text-to-video"})
        optional = inspect.signature(self.pipeline.__call__).parameters["image"].default is None
        return frozenset({"text-to-video", "image-to-video"} if optional else {"image-to-video"})

    def _first(self, *names: str) -> str | None:
        return next((name for name in names if name in self.arguments), None)


@dataclass
class Loaded:
    """A model on its device: the pipeline of each task that its card names."""

    card: ModelCard
    pipelines: dict[Task, Pipeline]


def load(files: Path, card: ModelCard, device: Device) -> Loaded:
    """The pipelines in ``files``, on the device, in the precision that the device decides.

    Raises:
        ValueError: it holds none that does what the card says.
    """
    pipeline = pipelines.load(files, pretrained.dtype_on(device))
    tasks = read_details(card, VideoDetails).tasks
    by_task = {task: _for_task(task, pipeline) for task in tasks}
    pipeline.to(device.type)
    return Loaded(card, by_task)


def _for_task(task: Task, pipeline: Any) -> Pipeline:
    own = type(pipeline).__name__
    name = SIBLINGS.get(own, {}).get(task, own)
    if name != own:
        pipeline = getattr(diffusers, name)(**pipeline.components)
        pipeline.set_progress_bar_config(disable=True)
    made = Pipeline(pipeline)
    if task not in made.tasks:
        raise ValueError(f"{name} does no {task}, which the model's card says it does")
    return made


def unload(model: Loaded) -> None:
    """Drop the weights and give the device's cache back."""
    model.pipelines.clear()
    memory.give_back()
