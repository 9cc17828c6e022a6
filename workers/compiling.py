"""Compiling one module for one signature, in a process of its own.

Tracing patches what all threads of a process share (``torch.nn.Module.__call__`` among it), so that
a model cannot compute beside it. What travels here is a module without its weights: their shapes
are all that a compiler reads.
"""

import hashlib
import io
import os
import pickle
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers.configuration_utils import FrozenDict
from torch.utils import _pytree as pytree

from jobs.processes import die_with_parent

JOB, GRAPH, KERNELS = "job", "graph", "inductor"
"""In the folder of a compilation: what to compile; the code that was made, and its kernels."""

_PLAIN = (bool, int, float, str, type(None))

NICENESS = 5
"""The device's worker goes first, but not so far that it stays eager for long."""


@dataclass(frozen=True)
class TensorSpec:
    """All of a tensor but its values."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: str
    is_inference: bool
    requires_grad: bool = False
    is_parameter: bool = False

    @classmethod
    def of(cls, tensor: torch.Tensor) -> "TensorSpec":
        """That of ``tensor``."""
        return cls(
            tuple(tensor.shape),
            tensor.stride(),
            tensor.dtype,
            str(tensor.device),
            tensor.is_inference(),
            tensor.requires_grad,
            isinstance(tensor, torch.nn.Parameter),
        )

    def tensor(self) -> torch.Tensor:
        """One that fits, with whatever lies in memory: on a CPU, pages that nobody touches."""
        with torch.inference_mode(self.is_inference):
            made = torch.empty_strided(
                self.shape, self.stride, dtype=self.dtype, device=self.device
            )
            if self.is_parameter:
                return torch.nn.Parameter(made, requires_grad=self.requires_grad)
            return made.requires_grad_(self.requires_grad)


class Signature(NamedTuple):
    """What of a call is compiled in: how it is built, and of each leaf all but tensors' values."""

    structure: Any
    leaves: tuple[Any, ...]


def signature_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Signature | None:
    """The call's signature; None: it has arguments that no code can be compiled for."""
    values, structure = pytree.tree_flatten((args, kwargs))
    leaves: list[Any] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            leaves.append(TensorSpec.of(value))
        elif isinstance(value, _PLAIN):
            leaves.append((type(value), value))
        else:
            return None
    return Signature(structure, tuple(leaves))


class _Pickler(pickle.Pickler):
    """Leaves the tensors out, and the folder that a module was loaded from."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.specs: list[TensorSpec] = []
        self._tensors: dict[int, tuple[int, torch.Tensor]] = {}

    def persistent_id(self, obj: Any) -> int | None:
        # Of subclasses (quantised weights) the plain tensors in them come by here.
        if type(obj) not in (torch.Tensor, torch.nn.Parameter):
            return None
        if id(obj) not in self._tensors:
            self._tensors[id(obj)] = len(self.specs), obj
            self.specs.append(TensorSpec.of(obj))
        return self._tensors[id(obj)][0]

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, torch.nn.Module):
            make, args, state, *rest = obj.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
            sorted_state = {
                name: _SortedSet(value) if type(value) is set else value
                for name, value in state.items()
            }
            return make, args, sorted_state, *rest
        if type(obj) is FrozenDict:
            return FrozenDict, ({name: _settled(name, value) for name, value in obj.items()},)
        return NotImplemented


def _settled(name: str, value: Any) -> Any:
    """A value of a model's configuration, without what differs from process to process."""
    if name == "_name_or_path":  # the folder that it was loaded from
        return ""
    return sorted(value) if name == "_use_default_values" else value  # made from a set


class _SortedSet:
    """A set that is pickled in one order: its own is another in each process."""

    def __init__(self, values: set[Any]) -> None:
        self._values = values

    def __reduce__(self) -> Any:
        return set, (sorted(self._values),)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, specs: list[TensorSpec]) -> None:
        super().__init__(file)
        self._tensors = [spec.tensor() for spec in specs]

    def persistent_load(self, pid: int) -> torch.Tensor:
        return self._tensors[pid]


def pack(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """A call of ``module`` without the tensors' values; the same bytes for what compiles alike.

    Raises:
        Exception: of the many that pickle raises at what cannot travel.
    """
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump((module, args, kwargs))
    return pickle.dumps((file.getvalue(), pickler.specs, torch.get_num_threads()))


def digest(packed: bytes, environment: str) -> str:
    """What the code made of ``packed`` here depends on."""
    return hashlib.sha256(packed + environment.encode()).hexdigest()


def call(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    """What is traced: the module comes as an argument, so that the code serves any like it."""
    return module(*args, **kwargs)


def compile_packed(packed: bytes) -> bytes:
    """The compiled code of a packed call; `load` takes it.

    Raises:
        Exception: it cannot be compiled in one piece, or not at all.
    """
    data, specs, threads = pickle.loads(packed)  # noqa: S301 (our worker's own)
    # How many threads a kernel divides its work among is compiled into it.
    torch.set_num_threads(threads)
    with torch.inference_mode():
        module, args, kwargs = _Unpickler(io.BytesIO(data), specs).load()
        traced: Any = torch.compile(
            call, fullgraph=True, dynamic=False, options={"guard_filter_fn": _kept}
        )
        compiled = traced.aot_compile(((module, *args), kwargs))
        return bytes(type(compiled).serialize(compiled).serialized_data)


def load(graph: bytes) -> Any:
    """Compiled code, called as `call` is; ``guard_check`` says whether it is right for a call.

    The kernels are looked for in the folder that ``TORCHINDUCTOR_CACHE_DIR`` names.
    """
    code: Any = torch.compiler.load_compiled_function(io.BytesIO(graph))
    code.disable_guard_check()  # whoever calls has asked
    return code


def _kept(guards: Any) -> list[bool]:
    """All guards that another process can check.

    What they leave out is the identity of functions and classes, which our digest stands for.
    """
    from torch._dynamo.guards import CheckFunctionManager  # noqa: PLC0415

    never = set(CheckFunctionManager.UNSUPPORTED_SERIALIZATION_GUARD_TYPES)
    return [
        not (guard.is_global or never & {guard.guard_type, *(guard.derived_guard_types or ())})
        for guard in guards
    ]


def main() -> None:
    """``compiling FOLDER``: from `JOB` in it to `GRAPH`; the kernels go where inductor is told."""
    die_with_parent(signal.SIGKILL)
    os.nice(NICENESS)
    folder = Path(sys.argv[1])
    (folder / GRAPH).write_bytes(compile_packed((folder / JOB).read_bytes()))
