"""Compiled code in the bucket: signed, written once, refused unless this deployment signed it."""

import functools
import hashlib
import hmac
import inspect
import io
import logging
import platform
import subprocess
import sys
import tarfile
from contextlib import suppress
from pathlib import Path

import diffusers
import torch
import transformers

from storage.objects import ObjectMissingError, ObjectStore, ObjectStoreError
from workers.compiling import GRAPH, KERNELS

_log = logging.getLogger(__name__)

SIGNATURE_BYTES = hashlib.sha256().digest_size
LARGEST_BYTES = 1024**3
"""More than any code takes: what unpacks to more is refused."""
TEMPORARY = (".lock", ".tmp")


class BadResultError(ValueError):
    """Saved code that is not what it should be."""


class CompileResults:
    """The results of one deployment, which signs them with ``key``."""

    def __init__(self, objects: ObjectStore, key: str) -> None:
        self._objects = objects
        self._key = key.encode()

    def read(self, digest: str) -> bytes | None:
        """What was saved under ``digest``; None: nothing, or nothing that can be trusted."""
        try:
            signed = self._objects.get(_place(digest))
        except ObjectMissingError:
            return None
        except ObjectStoreError as error:
            _log.warning("compiled code could not be looked up: %s", error)
            return None
        signature, archive = signed[:SIGNATURE_BYTES], signed[SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._signature(digest, archive)):
            _log.warning(
                "%s is not signed with this deployment's PRESSWORK_SIGNING_KEY: refused, and "
                "compiled here; delete the object to have it written anew",
                _place(digest),
            )
            return None
        return archive

    def save(self, digest: str, archive: bytes) -> None:
        """Keep it, unless somebody has been faster."""
        signed = self._signature(digest, archive) + archive
        try:
            self._objects.put_new(_place(digest), signed, "application/octet-stream")
        except ObjectStoreError as error:
            _log.warning("compiled code could not be saved: %s", error)

    def reserve(self, digest: str) -> bool:
        """Say that it is being compiled here; False: somebody else has said so before.

        No more than a hint, that nobody need wait for: it stays when a worker is killed.
        """
        try:
            return self._objects.put_new(_hint(digest), b"", "text/plain; charset=utf-8")
        except ObjectStoreError:
            return True

    def release(self, digest: str) -> None:
        """Say that nobody compiles it any more."""
        with suppress(ObjectStoreError):
            self._objects.delete([_hint(digest)])

    def _signature(self, digest: str, archive: bytes) -> bytes:
        """Over the place as well, or one object could be put in another's."""
        return hmac.digest(self._key, f"{digest}\n".encode() + archive, "sha256")


def _place(digest: str) -> str:
    return f"compiled/{digest}"


def _hint(digest: str) -> str:
    return f"compiling/{digest}"


def pack(folder: Path) -> bytes:
    """What a compilation has left in ``folder``, as one archive."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz", compresslevel=3) as archive:
        archive.add(folder / GRAPH, GRAPH)
        for path in sorted((folder / KERNELS).rglob("*")):
            if path.is_file() and path.suffix not in TEMPORARY:
                archive.add(path, str(path.relative_to(folder)))
    return file.getvalue()


def unpack(archive: bytes, kernels: Path) -> bytes:
    """The code in ``archive``, whose kernels are written to the folder ``kernels``.

    Raises:
        BadResultError: it holds other things than files of its own, or far too much.
    """
    graph = None
    room = LARGEST_BYTES
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as opened:
            for member in opened:
                room -= member.size
                if not member.isfile() or room < 0:
                    raise BadResultError(f"{member.name!r} has no place in compiled code")
                if member.name == GRAPH:
                    file = opened.extractfile(member)
                    assert file is not None
                    graph = file.read()
                    continue
                top, _, rest = member.name.partition("/")
                if top != KERNELS:
                    raise BadResultError(f"{member.name!r} has no place in compiled code")
                # It refuses what would land outside.
                kernel = tarfile.data_filter(member.replace(name=rest), str(kernels))
                # What other code has brought already is the same: kernels are named by what they
                # are made of. Written anew, it would be pulled from under whoever has it loaded,
                # and the process would die at its next look at it.
                if not (kernels / kernel.name).exists():
                    opened.extract(kernel, kernels, filter="data")
    except tarfile.TarError as error:
        raise BadResultError(str(error)) from error
    if graph is None:
        raise BadResultError("there is no code in it")
    return graph


def environment(module: torch.nn.Module) -> str:
    """All that compiled code depends on beside the call itself, one thing a line."""
    kinds = {type(part) for part in module.modules()}
    return "\n".join(
        [
            *_machine(),
            *sorted(
                f"{kind.__module__}.{kind.__qualname__} {_source(inspect.getsourcefile(kind))}"
                for kind in kinds
            ),
        ]
    )


@functools.cache
def _machine() -> tuple[str, ...]:
    device = (
        f"{torch.cuda.get_device_name()} {torch.cuda.get_device_capability()} {torch.version.cuda}"
        if torch.cuda.is_available()
        else f"{torch.backends.cpu.get_cpu_capability()} {_instructions()}"
    )
    return (
        f"{platform.system()} {platform.machine()} {platform.libc_ver()}",
        device,
        compiler_version(),
        f"python {sys.version} in {sys.prefix}",
        # Where torch's headers lie is in the hash by which a kernel is found.
        f"torch {torch.__version__} in {Path(torch.__file__).parent}",
        f"diffusers {diffusers.__version__} transformers {transformers.__version__}",
    )


def _instructions() -> str:
    """A digest of all that the CPU can do: kernels are compiled for this very one."""
    file = Path("/proc/cpuinfo")
    if not file.exists():
        return platform.processor()
    lines = {line for line in file.read_text().splitlines() if line.startswith("flags")}
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def compiler_version() -> str:
    """The C++ compiler that inductor would use, as it calls itself."""
    from torch._inductor.cpp_builder import get_cpp_compiler  # noqa: PLC0415

    command = [get_cpp_compiler(), "--version"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@functools.cache
def _source(file: str | None) -> str:
    """A digest of the file that has a class: what it computes is compiled in."""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
