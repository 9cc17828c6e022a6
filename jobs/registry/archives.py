"""ZIP archives from outside, unpacked into a directory that nothing in them leads out of."""

import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from jobs.problems import BadInputError, Problem
from jobs.registry import trees
from jobs.registry.trees import Tree

MAX_DIRECTORY_BYTES = 16 * 1024**2
"""Of the list of an archive's files: Python takes ten times as much to hold it."""
RATIO_FROM_BYTES = 1024**2
"""A smaller file may be packed as well as it likes."""

_END = struct.Struct("<4s8x2L2x")
_END_MARK, _ZIP64_MARK = b"PK\x05\x06", b"PK\x06\x07"
_LOCATOR_BYTES = 20
_ENCRYPTED = 1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def check(file: BinaryIO, name: str) -> None:
    """Refuse an archive whose list of files is too large to be read into memory.

    Raises:
        BadInputError: or it is no ZIP archive, or one that may have more than 65535 files.
    """
    size = file.seek(0, 2)
    file.seek(max(size - _END.size - 0xFFFF - _LOCATOR_BYTES, 0))
    tail = file.read()
    file.seek(0)
    place = tail.rfind(_END_MARK)
    if place < 0 or len(tail) - place < _END.size:
        raise BadInputError(Problem("is no ZIP archive, or it is cut off", name))
    _, directory_bytes, _ = _END.unpack_from(tail, place)
    before = tail[max(place - _LOCATOR_BYTES, 0) : place]
    if before.startswith(_ZIP64_MARK) or directory_bytes > MAX_DIRECTORY_BYTES:
        raise BadInputError(Problem("has too many files, or is in the format ZIP64", name))


def unpack(
    archive: zipfile.ZipFile,
    folder: Path,
    *,
    is_wanted: Callable[[str], bool],
    max_bytes: int,
    max_ratio: float | None = None,
) -> Tree:
    """The wanted files of ``archive``, written below ``folder``; the others are left out."""
    tree = Tree()
    left = max_bytes
    for info in archive.infolist():
        path = info.filename
        if info.is_dir():
            continue
        if not is_wanted(path):
            tree.left_out.append(path)
            continue
        if len(tree.files) == trees.MAX_FILES:
            tree.problems.append(Problem(f"there are more than {trees.MAX_FILES} files"))
            break
        wrong = _wrong(info, max_ratio)
        if not wrong:
            left -= info.file_size
            if left < 0:
                wrong = f"is one too many: unpacked, {max_bytes / 1024**3:g} GiB may be in it"
        if wrong:
            tree.problems.append(Problem(wrong, file=path))
            continue
        try:
            with archive.open(info) as packed:  # no more bytes than it has promised
                tree.write(path, folder, packed)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            tree.problems.append(Problem(f"cannot be unpacked: {error}", file=path))
    return tree


def _wrong(info: zipfile.ZipInfo, max_ratio: float | None) -> str | None:
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a link"
    if info.header_offset < 0:
        return "is damaged: it begins before its archive does"
    if info.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if info.compress_type not in _METHODS:
        return "is packed in a way that is not read here: use Deflate"
    too_well = max_ratio and info.file_size > max(info.compress_size, 1) * max_ratio
    if too_well and info.file_size > RATIO_FROM_BYTES:
        return f"is packed more than {max_ratio:g} times: no such file has that little in it"
    return trees.wrong_path(info.filename)
