"""Where models come from: a directory, the hub, the bucket, or a package of PyPI that is data."""

import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import metadata
from os.path import commonpath
from pathlib import Path, PurePosixPath

import huggingface_hub
from huggingface_hub import HfApi, snapshot_download

from jobs.problems import BadInputError, Problem
from jobs.registry import archives, trees
from jobs.registry.inspection import ALLOWED, INDEXES, WEIGHTS
from jobs.registry.trees import Tree
from storage.objects import ObjectStore

FORMS = "dir:PATH, hub:ORG/NAME@REVISION, s3:PREFIX or pip:PACKAGE"
MAX_UNPACKED_BYTES = 16 * 1024**3
"""Of a package: more than PyPI takes, less than a disk."""


@dataclass(frozen=True)
class Source:
    """Files on this machine, while they are needed. ``revision`` is None where there is no such."""

    place: str
    revision: str | None
    tree: Tree


@contextmanager
def opened(source: str, objects: ObjectStore) -> Iterator[Source]:
    """The files of ``source``, with what is wrong with their names and kinds.

    Raises:
        BadInputError: it cannot be read, or is of no known form.
    """
    scheme, _, place = source.partition(":")
    with tempfile.TemporaryDirectory(prefix="presswork-model-") as scratch:
        match scheme if place else None:
            case "dir":
                yield _directory(place)
            case "hub":
                yield _hub(place)
            case "s3":
                yield _bucket(place, objects, Path(scratch))
            case "pip":
                yield _package(place, Path(scratch))
            case _:
                raise _refused(f"use {FORMS}")


def _refused(message: str) -> BadInputError:
    return BadInputError(Problem(message, field="source"))


def _directory(place: str) -> Source:
    folder = Path(place).resolve()
    if not folder.is_dir():
        raise _refused(f"there is no directory {folder} on this machine")
    return Source(f"dir:{folder}", None, trees.read(folder))


def _hub(place: str) -> Source:
    """The snapshot of one commit in the hub's cache (`HF_HOME`), fetched where it is not whole."""
    name, _, revision = place.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise _refused("use hub:ORG/NAME@REVISION")
    if not revision:
        raise _refused("a hub source needs a revision, such as @main: it is kept as a commit")
    listed: list[str] = []
    try:
        if not huggingface_hub.constants.is_offline_mode():
            # One answer for both: a branch that moves meanwhile changes nothing.
            info = HfApi().model_info(name, revision=revision)
            revision = info.sha or revision
            listed = [sibling.rfilename for sibling in info.siblings or ()]
        snapshot = Path(snapshot_download(name, revision=revision, allow_patterns=list(ALLOWED)))
    except Exception as error:  # its HTTP client's, its own and the system's
        raise _refused(f"the hub has no {name} at {revision} for us: {error}") from error
    tree = trees.read(snapshot, links_into=[snapshot.parents[1] / "blobs"])
    tree.left_out += [path for path in listed if not _is_allowed(path)]
    _leave_out_others(tree)
    return Source(f"hub:{name}", snapshot.name, tree)


def _bucket(place: str, objects: ObjectStore, scratch: Path) -> Source:
    prefix = place.rstrip("/") + "/"
    fetched = Tree()
    for key in objects.keys(prefix):
        path = key.removeprefix(prefix)
        wrong = trees.wrong_path(path)
        if wrong:
            fetched.problems.append(Problem(wrong, file=path))
            continue
        with objects.open(key) as found:
            fetched.write(path, scratch, found.stream)
    tree = trees.read(scratch)
    tree.problems += fetched.problems
    if not tree.files and not tree.problems:
        raise _refused(f"the bucket has nothing below {prefix}")
    return Source(f"s3:{prefix}", None, tree)


def _package(place: str, scratch: Path) -> Source:
    """The data of an installed distribution, or of a wheel, which is neither installed nor run."""
    name, _, version = place.partition("@")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or version.startswith("-"):
        raise _refused("use pip:PACKAGE or pip:PACKAGE@VERSION")
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        found = None
    if found and version in ("", found.version):
        tree = Tree()
        for file in found.files or ():
            _take(tree, file.as_posix(), Path(str(found.locate_file(file))))
        version = found.version
    else:
        wheel = _downloaded(f"{name}=={version}" if version else name, scratch)
        version = wheel.name.split("-")[1]
        tree = _unpacked(wheel, scratch / "unpacked")
    return Source(f"pip:{name}", version, _rooted(tree))


def _downloaded(requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", requirement, "--dest", str(folder)]
    # A wheel is only unpacked; the setup of a source distribution would be run.
    command += ["--no-deps", "--only-binary", ":all:", "--no-input", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = done.stderr.strip().splitlines() or ["no wheel"]
        raise _refused(f"pip could not download a wheel of {requirement}: {said[-1]}")
    return wheels[0]


def _unpacked(wheel: Path, folder: Path) -> Tree:
    with zipfile.ZipFile(wheel) as archive:
        return archives.unpack(archive, folder, is_wanted=_is_allowed, max_bytes=MAX_UNPACKED_BYTES)


def _take(tree: Tree, path: str, file: Path) -> None:
    if _is_allowed(path) and file.is_file() and not trees.wrong_path(path):
        tree.add(path, file.resolve())
    else:
        tree.left_out.append(path)


def _rooted(tree: Tree) -> Tree:
    """The files below the model's directory: that of its index, or the one of all weights."""
    indexes = [path for path in tree.files if PurePosixPath(path).name in INDEXES]
    weights = [path for path in tree.files if path.lower().endswith(WEIGHTS)]
    parents = {str(PurePosixPath(path).parent) for path in indexes or weights}
    if not parents:
        return tree
    root = PurePosixPath(commonpath(parents))
    rooted = Tree(problems=tree.problems, left_out=tree.left_out)
    for path, file in tree.files.items():
        if PurePosixPath(path).is_relative_to(root):
            rooted.add(PurePosixPath(path).relative_to(root).as_posix(), file)
        else:
            rooted.left_out.append(path)
    return rooted


def _is_allowed(path: str) -> bool:
    name = PurePosixPath(path).name
    return not name.startswith(".") and any(fnmatchcase(name, pattern) for pattern in ALLOWED)


def _leave_out_others(tree: Tree) -> None:
    """Not the hub's other files, that an earlier download for something else has left there."""
    others: Iterable[str] = [path for path in tree.files if not _is_allowed(path)]
    for path in others:
        del tree.files[path]
    tree.left_out = sorted({*tree.left_out, *others})
