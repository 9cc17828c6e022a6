"""The denoiser of a pipeline, and variants of it that share its weights."""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch

from workers.compiled import Compiler, Plan

NAMES = ("transformer", "unet")
"""What pipelines call the module that is run at every step."""


class Denoiser:
    """One pipeline's denoiser. Its siblings have the same one.

    A variant is a module of its own over the same tensors: what is done to it (adapter layers,
    caching between steps) is neither seen nor paid for by calls that do without. With a compiler,
    each is compiled by the class's plan, once it is as ``change`` has left it.
    """

    def __init__(
        self, pipeline: Any, compiler: Compiler | None = None, plan: Plan = "eager"
    ) -> None:
        parts = getattr(pipeline, "components", {})
        self.name = next((name for name in NAMES if parts.get(name) is not None), None)
        """The component's name; None: a class whose denoiser is not known. It has no variants."""
        self.own: Any = parts[self.name] if self.name else None
        """The module as it was loaded; never compiled."""
        self.compiler = compiler
        self._plan = plan
        self._variants: dict[str, Any] = {}
        self.plain: Any = self.own
        """What calls without a variant denoise with: the same, compiled where there is a plan."""
        if self.own is not None and compiler is not None and plan != "eager":
            self.plain = self._compiled(sharing(self.own), "plain")

    def _compiled(self, module: Any, name: str) -> Any:
        if self.compiler is None:
            return module
        return self.compiler.wrap(module, self._plan, f"{type(self.own).__name__} ({name})")

    def variant(self, name: str, change: Callable[[Any], Any]) -> Any:
        """The variant called ``name``; when first asked for, what ``change`` makes of a copy."""
        if name not in self._variants:
            self._variants[name] = self._compiled(change(sharing(self.own)), name)
        return self._variants[name]

    def drop(self, name: str) -> None:
        """Forget a variant, and what it has beside the shared tensors."""
        self._variants.pop(name, None)

    def steady(self) -> AbstractContextManager[None]:
        """Within, no weights or adapters change: what is compiled need not look each time."""
        return self.compiler.steadily() if self.compiler else nullcontext()

    @contextmanager
    def used(self, pipeline: Any, module: Any) -> Iterator[None]:
        """Within, ``pipeline`` (this one's or a sibling's) denoises with ``module``.

        Given `own`, it is `plain`.
        """
        if module is self.own:
            module = self.plain
        if self.name is None or module is self.own:
            yield
            return
        setattr(pipeline, self.name, module)
        try:
            yield
        finally:
            setattr(pipeline, self.name, self.own)


def sharing(module: torch.nn.Module) -> torch.nn.Module:
    """A copy of ``module`` whose parameters and buffers are the same tensors."""
    tensors = chain(module.parameters(), module.buffers())
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
