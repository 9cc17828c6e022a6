"""The files of models in the bucket, each under its own digest, and copies of them that match."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from jobs.registry import trees
from storage.models import FileEntry, Manifest
from storage.objects import ObjectMissingError, ObjectStore, model_key

AT_ONCE = 4
"""Files that are hashed or fetched at the same time; hashing one keeps one core busy."""
_CHUNK_BYTES = 1024 * 1024

Progress = Callable[[int, int], None]
"""Told how many bytes of how many are done."""


class ModelFilesError(ValueError):
    """The files of a model are not those that were registered."""


def manifest_of(files: Mapping[str, Path]) -> dict[str, FileEntry]:
    """The digest and size of each file."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return dict(zip(files, threads.map(_entry, files.values()), strict=True))


def store(
    objects: ObjectStore,
    files: Mapping[str, Path],
    manifest: Manifest,
    progress: Progress = lambda _done, _total: None,
) -> None:
    """Bring every file to the bucket. What is there already, and is right, is not sent again."""
    total = sum(entry["size"] for entry in manifest.values())
    done = 0
    for path, entry in manifest.items():
        if _wrong(objects, entry):
            with files[path].open("rb") as file:
                objects.put_file(model_key(entry["sha256"]), file)
        done += entry["size"]
        progress(done, total)


def check(objects: ObjectStore, manifest: Manifest) -> Iterator[str]:
    """Read every file in the bucket again, and say which are not what they were."""
    for path, entry in manifest.items():
        wrong = _wrong(objects, entry)
        if wrong:
            yield f"{path}: {wrong}"


def _wrong(objects: ObjectStore, entry: FileEntry) -> str | None:
    key = model_key(entry["sha256"])
    size = objects.size(key)
    if size is None:
        return f"the bucket has no {key}"
    if size != entry["size"]:
        return f"{key} has {size} bytes instead of {entry['size']}"
    with objects.open(key) as found:
        digest = _digest(found.stream)
    return None if digest == entry["sha256"] else f"{key} has the sha256 {digest}"


def fetch(objects: ObjectStore, manifest: Manifest, folder: Path) -> None:
    """Write the files to ``folder``, which must be empty.

    Raises:
        ModelFilesError: the bucket has other bytes, or none, or a path leads out of the folder.
    """

    def fetch_one(item: tuple[str, FileEntry]) -> None:
        path, entry = item
        wrong = trees.wrong_path(path)
        if wrong:
            raise ModelFilesError(f"{path}: {wrong}")
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        key = model_key(entry["sha256"])
        try:
            with objects.open(key) as found, target.open("xb") as file:
                digest = _digest(found.stream, file)
        except ObjectMissingError as error:
            raise ModelFilesError(f"{path}: the bucket has no {key}") from error
        if digest != entry["sha256"]:
            raise ModelFilesError(f"{path}: {key} in the bucket has other bytes than its name says")

    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(fetch_one, manifest.items()))


def mismatches(folder: Path, manifest: Manifest) -> list[str]:
    """What below ``folder`` is not as the manifest has it, every byte read."""
    found, wrong = {}, []
    for parent, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            file = Path(parent, name)
            path = file.relative_to(folder).as_posix()
            if file.is_symlink():
                wrong.append(f"{path}: is a link")
            elif name in names and path not in manifest:
                wrong.append(f"{path}: does not belong to the model")
            elif name in names:
                found[path] = file
    wrong += [f"{path}: is missing" for path in manifest.keys() - found.keys()]
    wrong += [
        f"{path}: has other bytes than were registered"
        for path, entry in manifest_of(found).items()
        if entry != manifest[path]
    ]
    return sorted(wrong)


def _entry(file: Path) -> FileEntry:
    with file.open("rb") as stream:
        return FileEntry(sha256=_digest(stream), size=os.fstat(stream.fileno()).st_size)


def _digest(stream: BinaryIO, copy: BinaryIO | None = None) -> str:
    digest = hashlib.sha256()
    while chunk := stream.read(_CHUNK_BYTES):
        digest.update(chunk)
        if copy:
            copy.write(chunk)
    return digest.hexdigest()
