"""Which pictures may share a call, by their adapters, and the denoiser that has these."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

from workers.families.diffusion.adapters import Adapters
from workers.families.diffusion.bank import SLOTS, Bank
from workers.families.diffusion.capabilities import Capabilities
from workers.families.diffusion.denoiser import Denoiser
from workers.families.diffusion.reading import NotPlainError
from workers.families.diffusion.swap import Swap
from workers.family import Adapter, AdapterDoesNotFitError, Item


class Wearer(Protocol):
    """A picture to make, whose item says with which adapters."""

    @property
    def item(self) -> Item:
        """The job that it is of."""


W = TypeVar("W", bound=Wearer)


class Mixing:
    """Puts adapters on the denoiser, in one of three ways.

    A picture with one bankable adapter shares a call with those of other such adapters. The bank
    serves a call of one adapter as well: that costs little, and one denoiser less is compiled.
    Another LoRA of the denoiser is swapped in, and what is more than that, or several at once, is
    loaded beside the model: these share a call only with the same adapters and weights.
    """

    def __init__(self, pipeline: Any, denoiser: Denoiser, capabilities: Capabilities) -> None:
        self._denoiser = denoiser
        self.alone = Adapters(pipeline, denoiser)
        """The way that takes everything, and is never compiled."""
        self._bank: Bank | None = None
        self._swap: Swap | None = None
        if denoiser.name and capabilities.tasks:
            most, flat = capabilities.max_batch, capabilities.flat
            self._bank = Bank(pipeline, denoiser, max_batch=most, flat=flat)
            self._swap = Swap(pipeline, denoiser)
        self._unbankable: set[str] = set()
        self._unswappable: set[str] = set()

    def split(self, wearers: Sequence[W]) -> Iterator[list[W]]:
        """Those that may share a call: of the same adapter as many as can be."""
        alike: dict[tuple[Any, ...], list[W]] = {}
        banked: dict[str, list[W]] = {}
        for one in wearers:
            adapters = one.item.adapters
            if self._banks(adapters):
                banked.setdefault(adapters[0].identity, []).append(one)
            else:
                key = tuple((adapter.identity, adapter.weight) for adapter in adapters)
                alike.setdefault(key, []).append(one)
        same = list(banked.values())
        for start in range(0, len(same), SLOTS):
            yield [one for ones in same[start : start + SLOTS] for one in ones]
        yield from alike.values()

    def load(self, wearers: Sequence[W]) -> tuple[list[W], list[list[W]], list[tuple[W, str]]]:
        """Have the adapters of a call ready.

        Gives those whose are; calls of their own for those whose are found to be none for the bank;
        and those whose have no place in the model, with the reason.
        """
        adapters = wearers[0].item.adapters
        if not self._banks(adapters):
            try:
                self._load_alike(adapters)
            except AdapterDoesNotFitError as error:
                return [], [], [(one, str(error)) for one in wearers]
            return list(wearers), [], []
        assert self._bank is not None
        errors = self._bank.hold(one.item.adapters[0] for one in wearers)
        good: list[W] = []
        again: list[W] = []
        bad: list[tuple[W, str]] = []
        self._unbankable |= {
            name for name, error in errors.items() if isinstance(error, NotPlainError)
        }
        for one in wearers:
            match errors.get(one.item.adapters[0].identity):
                case None:
                    good.append(one)
                case NotPlainError():
                    again.append(one)
                case why:
                    bad.append((one, str(why)))
        return good, list(self.split(again)), bad

    def denoiser(self, wearers: Sequence[W]) -> Any:
        """The denoiser for a call that has been loaded."""
        adapters = wearers[0].item.adapters
        if self._banks(adapters):
            assert self._bank is not None
            self.alone.use(())
            return self._bank.module([one.item.adapters[0] for one in wearers])
        if self._swaps(adapters):
            assert self._swap is not None
            self.alone.use(())
            return self._swap.module(adapters[0])
        self.alone.use(adapters)
        return self.alone.module if adapters else self._denoiser.plain

    def _load_alike(self, adapters: Sequence[Adapter]) -> None:
        if self._swaps(adapters):
            assert self._swap is not None
            try:
                self._swap.hold(adapters[0])
            except NotPlainError:
                self._unswappable.add(adapters[0].identity)
        if not self._swaps(adapters):
            self.alone.use(adapters)

    def _swaps(self, adapters: Sequence[Adapter]) -> bool:
        if self._swap is None or len(adapters) != 1:
            return False
        return adapters[0].identity not in self._unswappable

    def _banks(self, adapters: Sequence[Adapter]) -> bool:
        if self._bank is None or len(adapters) != 1:
            return False
        return adapters[0].bank and adapters[0].identity not in self._unbankable
