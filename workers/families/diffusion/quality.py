"""What may be lost for speed, by the field ``quality``: denoising steps estimated, 8-bit weights.

| level | steps where the job names none | estimated steps | 8-bit weights |
|---|---|---|---|
| exact | the model's usual | none | no |
| high | the model's usual | every second in the middle | no |
| draft | half of the usual, see `jobs.kinds.image` | every second in the middle | on a GPU |

A level permits, and does not promise: what was done is told by the facts of the picture. Steps are
estimated for the known pipeline classes (`capabilities.CAPABILITIES`), with schedulers that go from
noise to picture without adding any. Weights become fp8 on GPUs that compute with it (compute
capability 8.9), int8 on others since 8.0. On CPUs they stay: int8 was slower there, see
docs/performance.md. With adapters they stay as well: these were made for the exact ones.

The plan is fixed, where FirstBlockCache and its like look at how much a whole batch has changed:
a picture would depend on its mates.
"""

import functools
import importlib.util
import logging
import math
import re
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch
from diffusers.utils.peft_utils import recurse_remove_peft_layers

from jobs.kinds.image import ImageRequest, Quality
from workers.families.diffusion.capabilities import UNKNOWN
from workers.families.diffusion.load import Loaded

Bits = Literal["int8", "fp8"]


@dataclass(frozen=True)
class Level:
    """What a level permits."""

    estimates: bool = False
    eight_bits: bool = False


LEVELS: Mapping[Quality, Level] = MappingProxyType(
    {
        "exact": Level(),
        "high": Level(estimates=True),
        "draft": Level(estimates=True, eight_bits=True),
    }
)

BEFORE = 1 / 3
"""This share of the steps decides what the picture shows: each of them is computed."""
AFTER = 2
"""So are the last ones, which make the finest details."""

_SMOOTH = frozenset(
    {
        "DDIMScheduler",
        "DEISMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "EulerDiscreteScheduler",
        "FlowMatchEulerDiscreteScheduler",
        "PNDMScheduler",
        "UniPCMultistepScheduler",
    }
)
"""Schedulers that ask the denoiser once a step and, as they come, add no noise on the way."""


class Sparing(torch.nn.Module):  # type: ignore[misc]  # mypy does not follow torch
    """A denoiser for one pipeline call, some of whose steps are estimated.

    An estimate goes on in a straight line from the two last answers that were computed: the first
    order of TaylorSeer (Liu et al. 2025, arXiv:2503.06923), of the last layer's output as in the
    light mode of diffusers, which is the same for every class and outside of compiled code.
    """

    def __init__(self, denoiser: torch.nn.Module) -> None:
        super().__init__()
        self._denoiser = denoiser
        self._step, self.steps = 0, 0
        self._asked = 0
        self._answers: defaultdict[int, deque[tuple[int, Any]]]
        self._answers = defaultdict(lambda: deque(maxlen=2))
        self.estimated = 0
        """How many steps were not computed."""

    def __getattr__(self, name: str) -> Any:
        """Pipelines ask for the configuration, dtype and layers of their denoiser."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._modules["_denoiser"], name)

    def end_step(self, done: int, total: int) -> None:
        """To be told between steps; ``total`` are all of the call's."""
        self._step, self.steps, self._asked = done, total, 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The denoiser's answer, or an estimate of it, of the same structure."""
        # Some classes are asked twice in a step, with and without the prompt.
        answers = self._answers[self._asked]
        self._asked += 1
        if len(answers) == answers.maxlen and is_estimated(self._step, self.steps):
            self.estimated += self._asked == 1
            (before_step, before), (last_step, last) = answers
            ahead = (self._step - last_step) / (last_step - before_step)
            return _mapped(lambda a, b: torch.lerp(a, b, 1 + ahead), before, last)
        answer = self._denoiser(*args, **kwargs)
        # A copy: compiled code may use the memory of its answer again.
        answers.append((self._step, _mapped(torch.clone, answer)))
        return answer


def is_estimated(step: int, steps: int) -> bool:
    """Whether the step of that number, from 0, is among those that are not computed."""
    start = max(2, math.ceil(steps * BEFORE))
    return start <= step < steps - AFTER and (step - start) % 2 == 0


def _mapped(function: Callable[..., torch.Tensor], *answers: Any) -> Any:
    """What ``function`` makes of the tensors in answers of one structure."""
    if isinstance(answers[0], torch.Tensor):
        return function(*answers)
    parts = zip(*answers, strict=True)
    return type(answers[0])(_mapped(function, *part) for part in parts)


class Shortcuts:
    """What a request's quality permits, and what of it is done, in one call of a pipeline."""

    def __init__(
        self, model: Loaded, pipeline: Any, request: ImageRequest, denoiser: Any, *, adapters: bool
    ) -> None:
        """``denoiser`` is what an exact call denoises with; ``adapters``: whether it has any."""
        self._request = request
        self._card = model.card
        self._sparing: Sparing | None = None
        self._bits: Bits | None = None
        self.module = denoiser
        """What the call has to denoise with."""
        level = LEVELS[request.quality]
        if model.capabilities is UNKNOWN or model.denoiser.name is None:
            return
        if level.eight_bits and not adapters:
            self._bits = bits_on(denoiser.device, denoiser.dtype)
            if self._bits is not None:
                change = functools.partial(quantized, bits=self._bits)
                self.module = model.denoiser.variant(self._bits, change)
        if level.estimates and _is_smooth(pipeline.scheduler):
            self.module = self._sparing = Sparing(self.module)

    def heard(self, tell: Callable[[int, int], None]) -> Callable[[int, int], None]:
        """``tell``, which is told of steps, so that they are heard of here as well."""
        sparing = self._sparing
        if sparing is None:
            return tell

        def told(done: int, total: int) -> None:
            sparing.end_step(done, total)
            tell(done, total)

        return told

    @property
    def facts(self) -> dict[str, Any]:
        """For the output: what was done in the call that is over; nothing, if it was exact."""
        request, card = self._request, self._card
        if request.quality == "exact":
            return {}
        done = []
        if request.steps is not None and request.steps < card.default_steps:
            done.append(f"{request.steps} steps instead of {card.default_steps}")
        if self._sparing is not None and self._sparing.estimated:
            done.append(f"{self._sparing.estimated} of {self._sparing.steps} steps estimated")
        if self._bits is not None:
            done.append(f"{self._bits} weights and activations")
        return {"quality": request.quality, "accelerations": done}


def _is_smooth(scheduler: Any) -> bool:
    config = scheduler.config
    return (
        type(scheduler).__name__ in _SMOOTH
        and not str(config.get("algorithm_type", "")).startswith("sde")
        and not config.get("stochastic_sampling", False)
        and bool(config.get("skip_prk_steps", True))
    )


def bits_on(device: torch.device, dtype: torch.dtype) -> Bits | None:
    """The 8-bit numbers that a device multiplies sooner than ``dtype``.

    None: it has none, or torchao is not installed.
    """
    if device.type != "cuda" or importlib.util.find_spec("torchao") is None:
        return None
    capability = torch.cuda.get_device_capability(device)
    if capability >= (8, 9) and dtype == torch.bfloat16:  # what its kernel by rows takes
        return "fp8"
    return "int8" if capability >= (8, 0) else None


def quantized(denoiser: Any, bits: Bits) -> Any:
    """``denoiser`` with 8-bit weights in its blocks; activations become so as they come.

    Each token has a scale of its own, so that none depends on its batch mates.
    """
    recurse_remove_peft_layers(denoiser)  # adapters that others have loaded
    torchao = _torchao()
    if bits == "fp8":
        config = torchao.Float8DynamicActivationFloat8WeightConfig(
            granularity=torchao.PerRow(), set_inductor_config=False
        )
    else:
        config = torchao.Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)
    torchao.quantize_(denoiser, config, filter_fn=_is_worth_it)
    return denoiser


_FEW_ROWS = re.compile(r"norm|adaln|_mod\b|time_emb", re.IGNORECASE)
"""Layers that see one row per picture, not one per token: they are quick, and matter."""


def _is_worth_it(layer: Any, name: str) -> bool:
    return (
        isinstance(layer, torch.nn.Linear)
        and re.search(r"blocks|layers|refiner", name) is not None
        and _FEW_ROWS.search(name) is None
        and layer.in_features % 16 == 0
        and layer.out_features % 16 == 0
    )


def _torchao() -> Any:
    """Torchao's quantization, which takes seconds to import and complains as it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torchao").setLevel(logging.ERROR)
        return importlib.import_module("torchao.quantization")
