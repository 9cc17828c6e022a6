"""Where datasets come from: a directory, a ZIP archive, a JSON Lines file, or a tenant's files."""

import shutil
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from uuid import UUID

from jobs import files
from jobs.campaigns.keys import has_date, object_key
from jobs.problems import BadInputError, Problem
from jobs.registry import archives, trees
from jobs.registry.trees import Tree
from jobs.services import Services
from storage.datasets import Kind
from storage.objects import ObjectMissingError

FORMS = "zip:PATH, dir:PATH, files:PREFIX or jsonl:PATH"
METADATA = "metadata.jsonl"
CAPTION = ".txt"
MASK = ".mask.png"
PICTURES = frozenset((".png", ".jpg", ".jpeg", ".webp"))
OTHER_PICTURES = frozenset(
    (".avif", ".bmp", ".gif", ".heic", ".heif", ".psd", ".svg", ".tif", ".tiff")
)
"""Looked at as well, so that they are refused by their names and not left out in silence."""

MAX_UNPACKED_BYTES = 4 * 1024**3
MAX_RATIO = 100
"""Pictures are packed already, and captions are short."""
MAX_TEXT_BYTES = 64 * 1024**2

_NOTES = frozenset(("licence.txt", "license.txt", "readme.txt"))


@dataclass(frozen=True)
class Material:
    """Files on this machine, while they are needed: the one of a text, or all of pictures."""

    kind: Kind
    tree: Tree


@contextmanager
def opened(services: Services, tenant_id: UUID, source: str) -> Iterator[Material]:
    """The files of ``source``.

    Raises:
        BadInputError: it cannot be read, or is of no known form.
    """
    scheme, _, place = source.partition(":")
    with tempfile.TemporaryDirectory(prefix="presswork-dataset-") as scratch:
        match scheme if place else None:
            case "dir":
                yield _directory(Path(place))
            case "zip" | "jsonl":
                path = Path(place)
                if not path.is_file():
                    raise refused(f"there is no file {path} on this machine")
                with path.open("rb") as file:
                    yield _read(file, path.name, f".{scheme}", Path(scratch))
            case "files":
                yield _bucket(services, tenant_id, place, Path(scratch))
            case _:
                raise refused(f"use {FORMS}")


@contextmanager
def uploaded(file: BinaryIO, name: str) -> Iterator[Material]:
    """The files of an upload, which was called ``name``.

    Raises:
        BadInputError: it is neither a ZIP archive nor a JSON Lines file.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in (".zip", ".jsonl"):
        message = f"{name!r} ends in neither .zip (pictures) nor .jsonl (text)"
        raise BadInputError(Problem(message, field="file"))
    with tempfile.TemporaryDirectory(prefix="presswork-dataset-") as scratch:
        yield _read(file, name, suffix, Path(scratch))


def refused(message: str) -> BadInputError:
    """What is said of a source as a whole."""
    return BadInputError(Problem(message, field="source"))


def _directory(folder: Path) -> Material:
    if not folder.is_dir():
        raise refused(f"there is no directory {folder} on this machine")
    tree = trees.read(folder)
    for path in [path for path in tree.files if not _is_wanted(path)]:
        del tree.files[path]
        tree.left_out.append(path)
    return Material("pictures", tree)


def _read(file: BinaryIO, name: str, suffix: str, scratch: Path) -> Material:
    if suffix == ".jsonl":
        return _text(file, name, scratch)
    archives.check(file, name)
    try:
        with zipfile.ZipFile(file) as archive:
            tree = archives.unpack(
                archive,
                scratch,
                is_wanted=_is_wanted,
                max_bytes=MAX_UNPACKED_BYTES,
                max_ratio=MAX_RATIO,
            )
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError) as error:
        raise BadInputError(
            Problem(f"is no ZIP archive that can be read: {error}", name)
        ) from error
    tree.problems += trees.collisions(tree.files)
    return Material("pictures", tree)


def _text(file: BinaryIO, name: str, scratch: Path) -> Material:
    target = scratch / "text.jsonl"
    with target.open("wb") as written:
        left = MAX_TEXT_BYTES
        while chunk := file.read(min(left + 1, 1024**2)):
            left -= len(chunk)
            if left < 0:
                message = f"has more than {MAX_TEXT_BYTES // 1024**2} MiB"
                raise BadInputError(Problem(message, name))
            written.write(chunk)
    return Material("text", Tree(files={name: target}))


def _bucket(services: Services, tenant_id: UUID, place: str, scratch: Path) -> Material:
    """The files below a prefix of the tenant's; or the one of that key, if its name says so."""
    place = place.rstrip("/")
    try:
        root = object_key(tenant_id, place) if not has_date(place) else None
    except ValueError as error:
        raise refused(f"{place} {error}") from error
    if root is None:
        raise refused("write the date out")
    suffix = PurePosixPath(place).suffix.lower()
    if suffix in (".zip", ".jsonl"):
        return _bucket_file(services, root, place, suffix, scratch)
    prefix = f"{root}/"
    tree = Tree()
    left = MAX_UNPACKED_BYTES
    for key in services.objects.keys(prefix):
        path = key.removeprefix(prefix)
        if not _is_wanted(path):
            tree.left_out.append(path)
            continue
        if len(tree.files) == trees.MAX_FILES:
            tree.problems.append(Problem(f"there are more than {trees.MAX_FILES} files"))
            break
        left -= services.objects.size(key) or 0
        wrong = trees.wrong_path(path)
        if left < 0:
            wrong = f"is one too many: {MAX_UNPACKED_BYTES // 1024**3} GiB may be there in all"
        if wrong:
            tree.problems.append(Problem(wrong, file=path))
            continue
        with services.objects.open(key) as found:
            tree.write(path, scratch, found.stream)
    if not tree.files and not tree.problems:
        raise refused(
            f"you have no pictures below {place}/ in the bucket: see `presswork file put`"
        )
    tree.problems += trees.collisions(tree.files)
    return Material("pictures", tree)


def _bucket_file(services: Services, key: str, place: str, suffix: str, scratch: Path) -> Material:
    name = PurePosixPath(place).name
    if (services.objects.size(key) or 0) > MAX_UNPACKED_BYTES:
        raise refused(f"{place} has more than {MAX_UNPACKED_BYTES // 1024**3} GiB")
    # An archive is read from its end.
    with tempfile.TemporaryFile() as file:
        try:
            with services.objects.open(key) as found:
                shutil.copyfileobj(found.stream, file, 1024**2)
        except ObjectMissingError as error:
            raise refused(files.missing(place)) from error
        file.seek(0)
        return _read(file, name, suffix, scratch)


def _is_wanted(path: str) -> bool:
    """Neither hidden files nor what only accompanies pictures, such as a licence."""
    parts = path.split("/")
    # macOS puts a hidden twin of every file into this folder of an archive.
    if any(part.startswith(".") and part not in (".", "..") for part in parts):
        return False
    name = parts[-1].lower()
    if "__MACOSX" in parts or name in _NOTES:
        return False
    return name == METADATA or PurePosixPath(name).suffix in {CAPTION, *PICTURES, *OTHER_PICTURES}
