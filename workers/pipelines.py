"""Pipelines of diffusers, whatever they make: loaded safely, and heard at every step."""

import functools
import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import diffusers
import torch
import transformers

from jobs.registry.inspection import UnsafeModelError, check_tree
from workers import pretrained
from workers.family import Context
from workers.weights import whole

T = TypeVar("T")

INDEX = "model_index.json"


def check_files(files: Path) -> str:
    """The pipeline's class name, after making sure that loading it runs nobody's code but ours.

    Raises:
        UnsafeModelError: see `jobs.registry.inspection`; or a class that diffusers does not have.
        ValueError: not a diffusers directory.
    """
    index_file = files / INDEX
    if not index_file.is_file():
        raise ValueError(f"{files} is not a diffusers directory: it has no {INDEX}")
    check_tree(files)
    index: dict[str, Any] = json.loads(index_file.read_text(encoding="utf-8"))
    name = index.get("_class_name")
    if not isinstance(name, str) or not hasattr(diffusers, name):
        raise UnsafeModelError(f"{files}: pipeline class {name!r} is not one of diffusers' own")
    return name


def load(files: Path, dtype: torch.dtype, quantization: Any = None) -> Any:
    """The pipeline in ``files``, still on the CPU; raises as `check_files` does.

    ``quantization`` is diffusers' configuration of it, if its own parts are to be quantized.

    Raises:
        WeightsMissingError: a part of it lacks weights. (Of its own parts diffusers says so.)
    """
    name = check_files(files)
    pretrained.quieten()
    options = {
        "use_safetensors": True,
        "local_files_only": True,
        "trust_remote_code": False,
        "dtype": dtype,
    }
    parts = {
        part: whole(
            kind.from_pretrained(files / part, output_loading_info=True, **options), files / part
        )
        for part, kind in _encoders(files)
    }
    own = {**options, "quantization_config": quantization} if quantization else options
    pipeline = getattr(diffusers, name).from_pretrained(files, **parts, **own)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _encoders(files: Path) -> Iterator[tuple[str, Any]]:
    """The models in it that are of transformers, by component."""
    index: dict[str, Any] = json.loads((files / INDEX).read_text(encoding="utf-8"))
    for part, value in index.items():
        match value:
            case ["transformers", str(class_name)]:
                kind = getattr(transformers, class_name, None)
                if isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel):
                    yield part, kind


def by_negative_prompt(
    values: Sequence[T], negative_prompt: Callable[[T], str | None]
) -> Iterator[list[T]]:
    """Those without a negative prompt, then those with one, which cannot share a call.

    None is not the same as an empty one (SDXL takes zeros instead of an empty text's embedding),
    so that which of the two an output gets must not be up to its mates.
    """
    for has_one in (False, True):
        same = [value for value in values if bool(negative_prompt(value)) is has_one]
        if same:
            yield same


class Progress:
    """Steps of all calls that a batch needs, told as one count."""

    def __init__(self, context: Context, calls: int) -> None:
        self._context = context
        self._calls = calls
        self._before = 0
        self._told = (0, 0)

    def step(self, done: int, total: int) -> None:
        """Tell a step of the call at hand; raises `StopRequestedError`."""
        self._tell(self._before + done, self._before + total * self._calls)

    def end_call(self) -> None:
        """A call is over, whichever of its steps were heard of."""
        done, total = self._told
        self._calls -= 1
        if not self._calls and done < total:
            self._tell(total, total)
        self._before = self._told[0]

    def split_call(self) -> None:
        """The call at hand is done in two, from its beginning."""
        self._calls += 1

    def _tell(self, done: int, total: int) -> None:
        self._told = (done, total)
        self._context.step(done, total)


@contextmanager
def heard(pipeline: Any, tell: Callable[[int, int], None]) -> Iterator[dict[str, Any]]:
    """Within, ``tell(done, total)`` is called after each step; gives arguments for the call.

    Where a pipeline has no callback for it, its scheduler is listened to.
    """
    if "callback_on_step_end" in inspect.signature(pipeline.__call__).parameters:

        def on_step(
            _pipeline: Any, step: int, _timestep: Any, values: dict[str, Any]
        ) -> dict[str, Any]:
            # Fewer than was asked for where a picture is started from.
            tell(step + 1, getattr(pipeline, "num_timesteps", 0) or _timesteps(pipeline))
            return values

        yield {"callback_on_step_end": on_step}
        return
    scheduler = getattr(pipeline, "scheduler", None)
    if scheduler is None:
        yield {}
        return
    done = 0
    original = scheduler.step

    @functools.wraps(original)  # pipelines look at its signature
    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal done
        stepped = original(*args, **kwargs)
        done += 1
        tell(done, max(done, _timesteps(pipeline)))
        return stepped

    scheduler.step = counted
    try:
        yield {}
    finally:
        del scheduler.step


def _timesteps(pipeline: Any) -> int:
    return len(pipeline.scheduler.timesteps)
