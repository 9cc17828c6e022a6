"""Several LoRAs in one batch: a bank of their matrices, from which each picture has its own.

Its slots are filled in the order of a hot-swap: zeros over every layer that may be changed, at the
largest rank; then the denoiser is compiled; then whatever lies in the slots may change at any time.
"""

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor

from jobs.registry.adapters import MAX_BANK_RANK
from workers.families.diffusion import reading
from workers.families.diffusion.denoiser import Denoiser
from workers.families.diffusion.reading import NotPlainError, sort_of
from workers.family import Adapter, AdapterDoesNotFitError

SLOTS = 8
"""How many adapters a call may have. Each costs memory in every layer."""
RANKS = (8, 16, 32, 64, MAX_BANK_RANK)
"""Adapters are padded to one of them, so that few ranks are compiled."""
KEPT_BYTES = 2**30
"""Of the host's memory: reading a file takes as long as some steps, filling a slot does not."""
VARIANT = "bank"


class UnbankableError(NotPlainError):
    """The adapter changes more than linear layers of the denoiser."""


@dataclass(frozen=True)
class Matrices:
    """What a LoRA does to a layer: ``x + up @ (down @ x)``; its alpha is in ``up``."""

    down: Tensor  # (rank, in)
    up: Tensor  # (out, rank)


class BankLinear(torch.nn.Linear):  # type: ignore[misc]  # torch is untyped here
    """A linear layer to whose result each row of the batch adds what its own adapter says.

    Rows are those of the first dimension. ``slot`` and ``weight`` say which adapter each row has,
    and how strongly; all layers share the two.
    """

    slot: Tensor  # (rows at most,)
    weight_of_row: Tensor  # (rows at most, 1, 1)
    down: Tensor  # (slots, rank, in)
    up: Tensor  # (slots, out, rank)

    @classmethod
    def over(
        cls, base: torch.nn.Linear, rank: int, slot: Tensor, weight_of_row: Tensor
    ) -> "BankLinear":
        """In place of ``base``, whose weights it has."""
        out, in_ = base.out_features, base.in_features
        layer = cls(in_, out, bias=base.bias is not None, device="meta")
        layer.weight, layer.bias = base.weight, base.bias
        like = {"device": base.weight.device, "dtype": base.weight.dtype}
        buffers = {
            "slot": slot,
            "weight_of_row": weight_of_row,
            "down": torch.zeros(SLOTS, rank, in_, **like),
            "up": torch.zeros(SLOTS, out, rank, **like),
        }
        for name, tensor in buffers.items():
            layer.register_buffer(name, tensor, persistent=False)
        layer.train(base.training)
        return layer

    def forward(self, x_RxI: Tensor) -> Tensor:  # noqa: N803 (shapes: rows, any, in)
        """``x`` with whatever lies between rows and features."""
        base = super().forward(x_RxI)
        rows = x_RxI.shape[0]
        slot = self.slot[:rows]
        x_RTI = x_RxI.reshape(rows, -1, self.in_features)  # noqa: N806
        h_RTr = torch.bmm(x_RTI, self.down[slot].transpose(1, 2))  # noqa: N806
        h_RTr = h_RTr * self.weight_of_row[:rows]  # noqa: N806
        base_RTO = base.reshape(rows, -1, self.out_features)  # noqa: N806
        return torch.baddbmm(base_RTO, h_RTr, self.up[slot].transpose(1, 2)).reshape(base.shape)

    def put(self, slot: int, matrices: Matrices | None) -> None:
        """Have the matrices in a slot, in place; None: it does nothing to this layer."""
        self.down[slot].zero_()
        self.up[slot].zero_()
        if matrices is not None:
            rank = matrices.down.shape[0]
            self.down[slot, :rank].copy_(matrices.down)
            self.up[slot, :, :rank].copy_(matrices.up)


class Bank:
    """The adapters in a denoiser's bank, by last use.

    A new sort of layer or a larger rank makes the bank anew, after which it has to be compiled
    again: an attention layer in one block stands for those in all, so that this ends soon.
    """

    def __init__(
        self, pipeline: Any, denoiser: Denoiser, *, max_batch: int, flat: tuple[str, ...] = ()
    ) -> None:
        self._pipeline = pipeline
        self._denoiser = denoiser
        self._flat = flat
        device = pipeline.device
        dtype = denoiser.own.dtype
        # Guidance makes two rows of each picture: all of one sort, then all of the other.
        rows = 2 * max_batch
        self._slot = torch.zeros(rows, dtype=torch.long, device=device)
        self._weight = torch.zeros(rows, 1, 1, dtype=dtype, device=device)
        self._rank = RANKS[0]
        self._sorts: frozenset[str] = frozenset()
        self._layers: dict[str, BankLinear] = {}
        self._slots: OrderedDict[str, int] = OrderedDict()
        self._kept: OrderedDict[str, Mapping[str, Matrices]] = OrderedDict()

    def hold(self, adapters: Iterable[Adapter]) -> dict[str, ValueError]:
        """Have these in slots, `SLOTS` at most; gives by identity what those lack that cannot be.

        `AdapterDoesNotFitError`, or `NotPlainError`.
        """
        wanted = {adapter.identity: adapter for adapter in adapters}
        assert len(wanted) <= SLOTS
        self._made()
        read: dict[str, Mapping[str, Matrices]] = {}
        errors: dict[str, ValueError] = {}
        for identity, adapter in wanted.items():
            if identity in self._slots:
                self._slots.move_to_end(identity)
                continue
            try:
                read[identity] = self._matrices(adapter)
            except (AdapterDoesNotFitError, NotPlainError) as error:
                errors[identity] = error
        if not read:
            return errors
        if self._grow(read.values()):  # what was in the slots is gone
            again = [a for identity, a in wanted.items() if identity not in {*read, *errors}]
            read |= {adapter.identity: self._matrices(adapter) for adapter in again}
        for identity, layers in read.items():
            self._put(identity, layers)
        return errors

    def module(self, adapters: Sequence[Adapter]) -> Any:
        """The denoiser for as many pictures, each with its own adapter, all of which are held."""
        count = self._slot.numel()
        slots = [self._slots[adapter.identity] for adapter in adapters]
        weights = [adapter.weight for adapter in adapters]
        times = math.ceil(count / len(adapters))
        self._slot.copy_(torch.tensor((slots * times)[:count]))
        self._weight.copy_(torch.tensor((weights * times)[:count])[:, None, None])
        return self._made()

    def _put(self, identity: str, layers: Mapping[str, Matrices]) -> None:
        free = set(range(SLOTS)) - set(self._slots.values())
        slot = free.pop() if free else self._slots.popitem(last=False)[1]
        for name, layer in self._layers.items():
            layer.put(slot, layers.get(name))
        self._slots[identity] = slot

    def _grow(self, read: Iterable[Mapping[str, Matrices]]) -> bool:
        """Make room for whatever these change; whether there was none."""
        every = [(name, each) for layers in read for name, each in layers.items()]
        sorts = self._sorts | {sort_of(name) for name, _ in every}
        largest = max([self._rank, *(each.down.shape[0] for _, each in every)])
        rank = next(rank for rank in RANKS if rank >= largest)
        if (sorts, rank) == (self._sorts, self._rank):
            return False
        self._sorts, self._rank = sorts, rank
        self._denoiser.drop(VARIANT)
        self._made()
        return True

    def _made(self) -> Any:
        """The denoiser with the bank; if it is a new one, nothing is in its slots."""
        return self._denoiser.variant(VARIANT, self._banked)

    def _banked(self, module: Any) -> Any:
        self._slots.clear()
        self._layers.clear()
        for name, layer in list(module.named_modules()):
            if type(layer) is torch.nn.Linear and sort_of(name) in self._sorts:
                banked = BankLinear.over(layer, self._rank, self._slot, self._weight)
                module.set_submodule(name, banked)
                self._layers[name] = banked
        return module

    def _matrices(self, adapter: Adapter) -> Mapping[str, Matrices]:
        """What it does to each layer, by their names; read once while there is room for it."""
        kept = self._kept
        if adapter.identity not in kept:
            kept[adapter.identity] = self._read(adapter)
        kept.move_to_end(adapter.identity)
        while len(kept) > SLOTS and sum(map(_bytes_of, kept.values())) > KEPT_BYTES:
            kept.popitem(last=False)
        return kept[adapter.identity]

    def _read(self, adapter: Adapter) -> Mapping[str, Matrices]:
        read = reading.read(self._pipeline, self._denoiser, adapter)
        found = {}
        for name, layer in read.layers.items():
            plain = type(self._denoiser.own.get_submodule(name)) is torch.nn.Linear
            if not plain or type(layer) is not LoraLinear or name.startswith(self._flat):
                raise UnbankableError(f"{adapter.identity}: {name} is no layer for the bank")
            down, up = layer.lora_A[reading.NAME].weight, layer.lora_B[reading.NAME].weight
            up = up.detach() * layer.scaling[reading.NAME]
            found[name] = Matrices(down.detach().cpu(), up.cpu())
        if read.rank > MAX_BANK_RANK:
            raise UnbankableError(f"{adapter.identity}: its rank is {read.rank}")
        return found


def _bytes_of(layers: Mapping[str, Matrices]) -> int:
    return sum(each.down.nbytes + each.up.nbytes for each in layers.values())
