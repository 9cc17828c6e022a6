"""Whether a training fits into memory, reckoned before it begins."""

from dataclasses import dataclass

import torch

from jobs.trainings.requests import Optimizer
from workers.training.trainer import TrainingError

STATE_BYTES: dict[Optimizer, int] = {"adamw": 8, "adamw-8bit": 2, "prodigy": 16}
"""What an optimiser keeps of each number that learns: two moments, and Prodigy two more."""
_FLOAT = 4


@dataclass(frozen=True)
class Need:
    """The bytes that a training takes: what stays as it is, what learns, and a pass."""

    base: int
    learning: int
    passes: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.base + self.learning + self.passes


def needed(
    *,
    base_bytes: int,
    trainable: int,
    dtype: torch.dtype,
    optimizer: Optimizer,
    ema: bool,
    activation_bytes: int,
) -> Need:
    """What a training takes.

    ``base_bytes`` are of weights that do not learn. Each of the ``trainable`` numbers has its
    weight and gradient, what the optimiser keeps, perhaps its average, and where passes are
    computed in another ``dtype`` a copy in that. ``activation_bytes`` are all that a pass keeps for
    its way back.
    """
    each = 2 * _FLOAT + STATE_BYTES[optimizer] + (_FLOAT if ema else 0)
    if dtype is not torch.float32:
        each += dtype.itemsize
    return Need(base_bytes, trainable * each, activation_bytes)


def check(need: Need, available_bytes: int, change: str) -> None:
    """Refuse what does not fit; ``change`` says what would make it smaller.

    Raises:
        TrainingError: it does not.
    """
    if need.total <= available_bytes:
        return
    raise TrainingError(
        f"this training needs about {_gb(need.total)} of memory ({_gb(need.base)} for the model, "
        f"{_gb(need.learning)} for what learns, {_gb(need.passes)} for a pass), and this worker "
        f"has {_gb(available_bytes)}: {change}"
    )


def _gb(count: int) -> str:
    return f"{count / 1e9:.2g} GB" if count < 1e9 else f"{count / 1e9:.1f} GB"  # noqa: PLR2004
