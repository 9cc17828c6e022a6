"""For each task the pipeline that does it: siblings of the one that was loaded, same weights."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import diffusers

from jobs.kinds.image_details import Task
from workers.families.diffusion.capabilities import Capabilities

_AUTOMATIC: Mapping[Task, Any] = {
    "image-to-image": diffusers.AutoPipelineForImage2Image,
    "inpaint": diffusers.AutoPipelineForInpainting,
}
_NEEDS = {"image-to-image": "image", "inpaint": "mask_image", "control": "control_image"}


class UnsupportedTaskError(ValueError):
    """The model cannot do what is asked of it."""


@dataclass(frozen=True)
class Sibling:
    """A pipeline, and what its call takes by name."""

    pipeline: Any
    arguments: Mapping[str, inspect.Parameter]

    @classmethod
    def of(cls, pipeline: Any) -> "Sibling":
        """The pipeline as it is."""
        return cls(pipeline, inspect.signature(pipeline.__call__).parameters)


class Siblings:
    """The loaded pipeline and its siblings, each made when first asked for."""

    def __init__(self, pipeline: Any, capabilities: Capabilities) -> None:
        self._own = Sibling.of(pipeline)
        self._capabilities = capabilities
        self._made: dict[Task, Sibling] = {}

    def get(self, task: Task) -> Sibling:
        """The pipeline for ``task``.

        Raises:
            UnsupportedTaskError: there is none, or it needs a component that the model lacks.
        """
        if task not in self._made:
            if self._capabilities.tasks:
                self._made[task] = self._known(task)
            else:
                self._made[task] = self._unknown(task)
        return self._made[task]

    def _known(self, task: Task) -> Sibling:
        pipeline = self._own.pipeline
        name = self._capabilities.tasks.get(task)
        if name is None:
            raise UnsupportedTaskError(f"{type(pipeline).__name__} does no {task}")
        if name == type(pipeline).__name__:
            return self._own
        if task.startswith("control") and "controlnet" not in pipeline.components:
            raise UnsupportedTaskError(f"{task}: the model was saved without a ControlNet")
        return Sibling.of(_share(pipeline, getattr(diffusers, name)))

    def _unknown(self, task: Task) -> Sibling:
        """By its signature alone, or by what diffusers itself takes for its sibling."""
        need = _NEEDS.get(task)
        if task == "text-to-image" or need in self._own.arguments:
            return self._own
        pipeline = self._own.pipeline
        message = f"{type(pipeline).__name__} does no {task}"
        if task not in _AUTOMATIC:
            raise UnsupportedTaskError(message)
        try:
            sibling = _AUTOMATIC[task].from_pipe(pipeline, dtype=pipeline.dtype)
        except ValueError as error:
            raise UnsupportedTaskError(message) from error
        sibling.set_progress_bar_config(disable=True)
        return Sibling.of(sibling)


def _share(pipeline: Any, kind: Any) -> Any:
    """A pipeline of another class on the same components and settings.

    Not by ``from_pipe``, which casts the components that both have to one precision.
    """
    components, settings = kind._get_signature_keys(kind)  # noqa: SLF001 (as from_pipe itself)
    given = {name: part for name, part in pipeline.components.items() if name in components}
    given |= {name: value for name, value in pipeline.config.items() if name in settings}
    sibling = kind(**given)
    sibling.set_progress_bar_config(disable=True)
    return sibling
