"""One LoRA at a time, swapped in place: for those that no bank takes, and compiled all the same.

In the order that compiled code asks for (`peft.utils.hotswap`): hot-swapping is prepared at the
largest rank; a LoRA of zeros is put over every layer that may be changed; then the denoiser is
compiled; then any other takes its place, layers that it does not change being set to zero.
"""

from collections.abc import Mapping
from typing import Any

import torch
from peft.utils.hotswap import hotswap_adapter_from_state_dict
from torch import Tensor

from workers.families.diffusion import reading
from workers.families.diffusion.denoiser import Denoiser
from workers.families.diffusion.reading import NotPlainError, Read, sort_of
from workers.family import Adapter

VARIANT = "swap"
_MATRIX = 2


class Swap:
    """The adapter that is on a denoiser at the moment.

    As with a bank, a new sort of layer or a larger rank makes it anew.
    """

    def __init__(self, pipeline: Any, denoiser: Denoiser) -> None:
        self._pipeline = pipeline
        self._denoiser = denoiser
        self._rank = 1
        self._sorts: frozenset[str] = frozenset()
        self._identity: str | None = None
        self._scales: dict[str, float] = {}

    def hold(self, adapter: Adapter) -> None:
        """Have this one on.

        Raises:
            AdapterDoesNotFitError: the model has no place for it.
            NotPlainError: it cannot be swapped.
        """
        if self._sorts:
            self._made()
        if adapter.identity == self._identity:
            return
        read = reading.read(self._pipeline, self._denoiser, adapter)
        for name in read.layers:
            if not _is_swappable(self._denoiser.own.get_submodule(name)):
                raise NotPlainError(f"{adapter.identity}: {name} is no layer to be swapped")
        self._grow(read)
        weights = {
            f"{name}.{matrix}.{reading.NAME}.weight": getattr(layer, matrix)[reading.NAME].weight
            for name, layer in read.layers.items()
            for matrix in ("lora_A", "lora_B")
        }
        module = self._made()
        self._identity = None
        with torch.no_grad():
            hotswap_adapter_from_state_dict(module, weights, reading.NAME, read.config)
        self._scales = {name: layer.scaling[reading.NAME] for name, layer in read.layers.items()}
        self._identity = adapter.identity

    def module(self, adapter: Adapter) -> Any:
        """The denoiser with the adapter that is held, by its weight."""
        assert adapter.identity == self._identity
        module = self._made()
        for name, scale in self._scales.items():
            # A tensor: a number would be compiled in.
            module.get_submodule(name).scaling[reading.NAME].fill_(scale * adapter.weight)
        return module

    def _grow(self, read: Read) -> None:
        sorts = self._sorts | {sort_of(name) for name in read.layers}
        rank = max(self._rank, 1 << (read.rank - 1).bit_length())
        if (sorts, rank) != (self._sorts, self._rank):
            self._sorts, self._rank = sorts, rank
            self._denoiser.drop(VARIANT)

    def _made(self) -> Any:
        """The denoiser to swap on; if it is a new one, nothing is on."""
        return self._denoiser.variant(VARIANT, self._zeros)

    def _zeros(self, module: Any) -> Any:
        self._identity = None
        weights: dict[str, Tensor] = {}
        for name, layer in module.named_modules():
            if sort_of(name) in self._sorts and _is_swappable(layer):
                weights |= _zeros_of(name, layer, self._rank)
        module.enable_lora_hotswap(target_rank=self._rank)
        module.load_lora_adapter(weights, prefix=None, adapter_name=reading.NAME)
        return module


def _is_swappable(layer: Any) -> bool:
    return type(layer) is torch.nn.Linear or (type(layer) is torch.nn.Conv2d and layer.groups == 1)


def _zeros_of(name: str, layer: Any, rank: int) -> Mapping[str, Tensor]:
    """A LoRA that does nothing to the layer; of a convolution, the second matrix is one of 1x1."""
    weight: Tensor = layer.weight
    down = weight.new_zeros(rank, *weight.shape[1:])
    up = weight.new_zeros(weight.shape[0], rank, *([1] * (weight.ndim - _MATRIX)))
    return {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
