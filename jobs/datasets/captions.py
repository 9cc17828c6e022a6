"""The captions of an imagefolder: from ``metadata.jsonl``, or a text file beside each picture."""

import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from jobs.campaigns.recipients import decode
from jobs.datasets import lines
from jobs.datasets.definition import MAX_CAPTION_CHARS
from jobs.datasets.reading import CAPTION, MASK, METADATA
from jobs.kinds.values import check_storable
from jobs.problems import BadInputError, Problem

_MAX_BYTES = 4 * MAX_CAPTION_CHARS


def stem(path: str) -> str:
    """What a picture, its mask and its caption have in common: the path without its ending."""
    lowered = path.lower()
    ending = MASK if lowered.endswith(MASK) else PurePosixPath(path).suffix
    # macOS takes names apart where other systems do not.
    return unicodedata.normalize("NFC", path[: len(path) - len(ending)])


class Captions:
    """Those of ``pictures`` (paths), as they are found; ``problems`` grows by what is wrong."""

    def __init__(self, pictures: Iterable[str], problems: list[Problem]) -> None:
        self._paths = {unicodedata.normalize("NFC", path): path for path in pictures}
        self._by_stem = {stem(path): path for path in pictures}
        self._found: dict[str, str] = {}
        self._from: dict[str, str] = {}
        self._problems = problems

    def read(self, files: Mapping[str, Path]) -> dict[str, str]:
        """The captions by the paths of their pictures, of those that have one."""
        for path, file in files.items():
            if PurePosixPath(path).name.lower() == METADATA:
                self._read_metadata(path, file)
            elif path.lower().endswith(CAPTION):
                self._read_sidecar(path, file)
        return self._found

    def _read_metadata(self, path: str, file: Path) -> None:
        folder = PurePosixPath(path).parent
        for line, given in lines.read(file, path, self._problems):
            name, text = given.get("file_name"), given.get("text")
            if not isinstance(name, str) or not name:
                self._wrong("is required, as text", path, line, "file_name")
                continue
            picture = self._paths.get(unicodedata.normalize("NFC", str(folder / name)))
            if picture is None:
                message = f"there is no picture {name!r} beside this file"
                self._wrong(message, path, line, "file_name")
            elif not isinstance(text, str):
                self._wrong("is required, as text", path, line, "text")
            else:
                self._take(picture, text, path, line)

    def _read_sidecar(self, path: str, file: Path) -> None:
        picture = self._by_stem.get(stem(path))
        if picture is None:
            self._wrong("is a caption, but there is no picture of the same name", path)
            return
        with file.open("rb") as stream:
            raw = stream.read(_MAX_BYTES + 1)
        if len(raw) > _MAX_BYTES:
            self._wrong(f"is longer than {MAX_CAPTION_CHARS} characters", path)
            return
        try:
            self._take(picture, decode(raw, path), path)
        except BadInputError as error:
            self._problems += error.problems

    def _take(self, picture: str, text: str, path: str, line: int | None = None) -> None:
        text = text.strip()
        if len(text) > MAX_CAPTION_CHARS:
            self._wrong(f"is longer than {MAX_CAPTION_CHARS} characters", path, line, "text")
            return
        try:
            check_storable(text)
        except ValueError as error:
            self._wrong(str(error), path, line, "text")
            return
        place = f"{path}:{line}" if line else path
        first = self._from.setdefault(picture, place)
        if first != place:
            message = f"{picture} has a caption already, from {first}"
            self._wrong(message, path, line)
        elif text:
            self._found[picture] = text

    def _wrong(
        self, message: str, path: str, line: int | None = None, field: str | None = None
    ) -> None:
        self._problems.append(Problem(message, path, line, field))
