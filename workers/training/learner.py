"""A module that learns: optimiser, learning rate by step, averaged weights, and their state."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from jobs.trainings.requests import Optimizer, Schedule, TrainingRequest

State = dict[str, Any]
"""What is no tensor of a learner's state; JSON can hold it."""


@dataclass(frozen=True)
class Rate:
    """The learning rate of each step: it depends on the step alone, not on what was before.

    A linear warm-up, then as ``schedule`` says down to zero at ``steps``.
    """

    peak: float
    schedule: Schedule
    warmup_steps: int
    steps: int

    def at(self, step: int) -> float:
        """Of step number ``step``, the first is 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / (self.warmup_steps + 1)
        done = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        match self.schedule:
            case "constant":
                return self.peak
            case "linear":
                return self.peak * max(1 - done, 0)
            case "cosine":
                return self.peak * 0.5 * (1 + math.cos(math.pi * min(done, 1)))


@dataclass(frozen=True)
class Optimisation:
    """How a learner learns; see the fields of `TrainingRequest` of the same names."""

    rate: Rate
    optimizer: Optimizer = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema: float | None = None

    @classmethod
    def of(cls, request: TrainingRequest, **changes: Any) -> "Optimisation":
        """As the request has it."""
        assert request.steps
        assert request.learning_rate
        rate = Rate(
            request.learning_rate, request.schedule, request.warmup_steps or 0, request.steps
        )
        given = {
            "rate": rate,
            "optimizer": request.optimizer,
            "weight_decay": request.weight_decay,
            "max_grad_norm": request.max_grad_norm,
            "ema": request.ema,
        }
        return cls(**(given | changes))


class Learner:
    """All parameters of ``module`` that require gradients, and how they change.

    Raises:
        ValueError: the optimiser's package is not installed.
    """

    def __init__(self, module: nn.Module, how: Optimisation) -> None:
        self.module = module
        self._how = how
        self.parameters: dict[str, nn.Parameter] = {
            name: one for name, one in module.named_parameters() if one.requires_grad
        }
        self._optimizer = _optimizer(how, list(self.parameters.values()))
        self._ema = (
            EMAModel(self.parameters.values(), decay=how.ema, use_ema_warmup=True, power=3 / 4)
            if how.ema
            else None
        )

    def apply(self, step: int) -> dict[str, float]:
        """Change the weights by their gradients, which are gone then; ``step`` counts from 0."""
        rate = self._how.rate.at(step)
        # Prodigy finds the rate itself, and takes what it is given as a factor.
        factor = rate / self._how.rate.peak if self._how.optimizer == "prodigy" else rate
        for group in self._optimizer.param_groups:
            group["lr"] = factor
        norm = nn.utils.clip_grad_norm_(list(self.parameters.values()), self._how.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._ema:
            self._ema.step(self.parameters.values())
        return {"learning_rate": factor, "grad_norm": float(norm)}

    def averaged(self) -> "Averaged":
        """A block in which the module has the average of its weights, where one is kept."""
        return Averaged(self._ema, list(self.parameters.values()))

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of its state; names begin with weights, buffers, optimizer or ema."""
        found = {f"weights.{name}": one.detach() for name, one in self.parameters.items()}
        found |= {f"buffers.{name}": one for name, one in self.module.named_buffers()}
        for index, values in self._optimizer.state_dict()["state"].items():
            found |= {
                f"optimizer.{index}.{name}": value
                for name, value in values.items()
                if isinstance(value, Tensor)
            }
        if self._ema:
            found |= {f"ema.{n}": one for n, one in enumerate(self._ema.shadow_params)}
        return {name: one.detach().cpu().contiguous().clone() for name, one in found.items()}

    def state(self) -> State:
        """What else there is: numbers of the optimiser, and how often the average was made."""
        state = self._optimizer.state_dict()
        plain = {
            str(index): {
                name: value for name, value in values.items() if not isinstance(value, Tensor)
            }
            for index, values in state["state"].items()
        }
        groups = [
            {name: value for name, value in group.items() if _is_plain(value)}
            for group in state["param_groups"]
        ]
        return {
            "optimizer": plain,
            "groups": groups,
            "ema": self._ema.optimization_step if self._ema else None,
        }

    def load(self, tensors: Mapping[str, Tensor], state: State) -> None:
        """Be as the one was whose ``tensors`` and ``state`` these are.

        Raises:
            ValueError: it had other parameters, or learnt in another way.
        """
        own = {f"weights.{name}": one.detach() for name, one in self.parameters.items()}
        own |= {f"buffers.{name}": one for name, one in self.module.named_buffers()}
        if self._ema:
            own |= {f"ema.{n}": one for n, one in enumerate(self._ema.shadow_params)}
        for name, one in own.items():
            if name not in tensors or tensors[name].shape != one.shape:
                raise ValueError(f"{name} is not what it was")
            one.copy_(tensors[name])
        now = self._optimizer.state_dict()
        values: dict[int, dict[str, Any]] = {
            int(index): dict(plain) for index, plain in state["optimizer"].items()
        }
        for key, tensor in tensors.items():
            part, _, rest = key.partition(".")
            if part == "optimizer":
                index, _, name = rest.partition(".")
                values.setdefault(int(index), {})[name] = tensor
        groups = [
            {**group, **kept}
            for group, kept in zip(now["param_groups"], state["groups"], strict=True)
        ]
        self._optimizer.load_state_dict({"state": values, "param_groups": groups})
        if self._ema:
            self._ema.optimization_step = state["ema"]


class Averaged:
    """A block in which parameters have their averages' values."""

    def __init__(self, ema: EMAModel | None, parameters: list[nn.Parameter]) -> None:
        self._ema = ema
        self._parameters = parameters

    def __enter__(self) -> None:
        if self._ema:
            self._ema.store(self._parameters)
            self._ema.copy_to(self._parameters)

    def __exit__(self, *_: object) -> None:
        if self._ema:
            self._ema.restore(self._parameters)


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float | bool | str | None) or (
        isinstance(value, tuple | list) and all(isinstance(one, int | float) for one in value)
    )


def _optimizer(how: Optimisation, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    options: dict[str, Any] = {"betas": how.betas, "weight_decay": how.weight_decay}
    match how.optimizer:
        case "adamw":
            return torch.optim.AdamW(parameters, lr=how.rate.peak, **options)
        case "adamw-8bit":
            make = _installed("bitsandbytes.optim", "AdamW8bit", "bitsandbytes")
            return make(parameters, lr=how.rate.peak, **options)
        case "prodigy":
            make = _installed("prodigyopt", "Prodigy", "prodigyopt")
            return make(parameters, lr=1.0, safeguard_warmup=True, **options)


def _installed(module: str, name: str, package: str) -> Callable[..., torch.optim.Optimizer]:
    try:
        found = __import__(module, fromlist=[name])
    except ImportError as error:
        raise ValueError(
            f"optimizer: needs the package {package}, which is not installed on this worker"
        ) from error
    made: Callable[..., torch.optim.Optimizer] = getattr(found, name)
    return made
