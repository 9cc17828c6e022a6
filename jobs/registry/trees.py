"""The files below a directory: only plain ones, under names that mean the same everywhere."""

import os
import shutil
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from jobs.problems import Problem

MAX_FILES = 10_000
MAX_PATH_BYTES = 400
MAX_NAME_BYTES = 255
"""The most that file systems take."""


@dataclass
class Tree:
    """Files by their POSIX paths below the directory, and what is wrong with them.

    ``left_out`` are those that are neither read nor kept, such as ``.git``.
    """

    files: dict[str, Path] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def add(self, path: str, file: Path) -> None:
        """Take a file into the tree, or note what speaks against its name."""
        wrong = wrong_path(path)
        if wrong:
            self.problems.append(Problem(wrong, file=path))
        elif len(self.files) < MAX_FILES:
            self.files[path] = file
        elif len(self.files) == MAX_FILES and not any(p.file is None for p in self.problems):
            self.problems.append(Problem(f"there are more than {MAX_FILES} files"))

    def write(self, path: str, folder: Path, stream: IO[bytes]) -> None:
        """Take a file whose bytes come from ``stream`` and are written below ``folder``."""
        target = folder / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                shutil.copyfileobj(stream, file, 1024 * 1024)
        except (FileExistsError, NotADirectoryError):
            message = "is there twice, or as a directory as well"
            self.problems.append(Problem(message, file=path))
        else:
            self.add(path, target)


def wrong_path(path: str) -> str | None:
    """Why a path is refused: it could leave the directory, or mean another file elsewhere."""
    parts = path.split("/")
    if path.startswith("/") or "\\" in path or ":" in path or {"", ".", ".."} & set(parts):
        return "its path leads out of the directory"
    if len(path.encode(errors="replace")) > MAX_PATH_BYTES:
        return f"its path is longer than {MAX_PATH_BYTES} bytes"
    if any(len(part.encode(errors="replace")) > MAX_NAME_BYTES for part in parts):
        return f"its path has a name that is longer than {MAX_NAME_BYTES} bytes"
    if not path.isprintable():
        return "its name has characters that cannot be shown"
    return None


def read(folder: Path, *, links_into: Sequence[Path] = ()) -> Tree:
    """The files below ``folder``; symbolic links must end in it or in one of ``links_into``."""
    tree = Tree()
    roots = [root.resolve() for root in (folder, *links_into)]
    for path, entry in _entries(folder, ""):
        if PurePosixPath(path).name.startswith("."):
            tree.left_out.append(path)
        elif entry.is_symlink():
            target = Path(entry.path).resolve()
            if not any(target.is_relative_to(root) for root in roots):
                reason = "is a link out of the directory"
                tree.problems.append(Problem(reason, file=path))
            elif not target.is_file():
                tree.problems.append(Problem("is a link, but to no file", file=path))
            else:
                tree.add(path, target)
        elif entry.is_file():
            tree.add(path, Path(entry.path))
        else:
            tree.problems.append(Problem("is no file but a pipe, a socket or a device", file=path))
    tree.problems += collisions(tree.files)
    return tree


def _entries(folder: Path, prefix: str) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """All that is not a directory, and hidden directories as a whole, in order."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        path = f"{prefix}{entry.name}"
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            yield from _entries(Path(entry.path), f"{path}/")
        else:
            yield path, entry


def collisions(paths: dict[str, Path]) -> Iterator[Problem]:
    """Names that are one name on file systems that do not tell cases or accents apart."""
    taken: dict[str, str] = {}
    for path in paths:
        other = taken.setdefault(unicodedata.normalize("NFC", path).casefold(), path)
        if other != path:
            yield Problem(f"{other} has the same name on many file systems", file=path)
