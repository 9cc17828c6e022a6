"""Recipients, read one at a time from CSV, JSON Lines or the rows of a request."""

import csv
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, BinaryIO, Literal

from jobs.kinds.values import check_storable
from jobs.problems import BadInputError, Problem, dotted

MAX_ROW_BYTES = 256 * 1024
MAX_KEY_CHARS = 512
MAX_LISTED = 20
"""Columns named in a message."""

Format = Literal["csv", "jsonl"]

# csv.Error by a fragment of its text: its own words are for programmers.
_CSV_ERRORS = {
    "unexpected end of data": "a quoted field is never closed",
    "expected after": 'text follows a closing quote; a quote inside a quoted field is written ""',
    "new-line character": "a line ends in a carriage return alone; save with LF or CRLF line ends",
    "field larger": "a field has more than 131072 characters; is a quote left open?",
}


@dataclass(frozen=True, slots=True)
class Recipient:
    """One row; ``line`` is where its record starts, 1-based, or its place among inline rows."""

    key: str
    line: int
    row: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Place:
    file: str | None = None
    line: int | None = None
    path: tuple[str | int, ...] = ()

    def bad(self, message: str, *path: str | int) -> BadInputError:
        return BadInputError(
            Problem(message, self.file, self.line, dotted((*self.path, *path)) or None)
        )


def read(
    stream: BinaryIO, name: str, id_column: str, format_: Format, delimiter: str | None = None
) -> Iterator[Recipient]:
    """Recipients of a file, which messages call ``name``; most errors come as it is iterated."""
    if format_ == "jsonl":
        if delimiter:
            raise _Place(path=("recipients", "delimiter")).bad("is for csv only")
        return read_jsonl(stream, name, id_column)
    return read_csv(stream, name, id_column, delimiter or ",")


def format_of(name: str) -> Format:
    """The format that the file name ``name`` promises.

    Raises:
        BadInputError: it ends in neither .csv nor .jsonl.
    """
    suffix = PurePath(name).suffix.lower()
    if suffix == ".csv":
        return "csv"
    if suffix == ".jsonl":
        return "jsonl"
    raise BadInputError(
        Problem(
            f"{name!r} ends in neither .csv nor .jsonl; say which it is: csv or jsonl",
            field="recipients.format",
        )
    )


def read_csv(
    stream: BinaryIO, name: str, id_column: str, delimiter: str = ","
) -> Iterator[Recipient]:
    """Rows of a CSV file with a header; fields are kept character for character.

    Raises:
        BadInputError: at the first row that is wrong; what follows it cannot be trusted.
    """
    records = _csv_records(stream, name, delimiter)
    header_line, header = next(records, (0, []))
    if not header:
        raise _Place(name).bad("is empty; the first line must name the columns")
    _check_header(header, id_column, _Place(name, header_line))
    found = False
    for line, fields in records:
        found = True
        place = _Place(name, line)
        if len(fields) != len(header):
            raise place.bad(
                f"has {len(fields)} fields where the header has {len(header)}; "
                "quote a field that holds the delimiter or a line end"
            )
        row = dict(zip(header, fields, strict=True))
        for column, value in row.items():
            if "\0" in value:
                raise place.bad("holds a NUL character, which cannot be stored", column)
        yield Recipient(_checked_key(row[id_column], place, id_column), line, row)
    if not found:
        raise _Place(name).bad("has a header but no recipients")


def read_jsonl(stream: BinaryIO, name: str, id_column: str) -> Iterator[Recipient]:
    """One JSON object a line; blank lines are skipped.

    Raises:
        BadInputError: at the first row that is wrong.
    """
    lines = _Lines(stream, name)
    found = False
    for text in lines:
        line = lines.number
        lines.start_record()
        if not text.strip():
            continue
        found = True
        place = _Place(name, line)
        key, row = _checked_object(_parse_json(text, place), id_column, place)
        yield Recipient(key, line, row)
    if not found:
        raise _Place(name).bad("is empty; give one JSON object a line")


def from_rows(rows: Iterable[Any], id_column: str) -> Iterator[Recipient]:
    """Recipients given in the request itself.

    Raises:
        BadInputError: at the first row that is wrong, its field ``recipients.rows[N]``.
    """
    found = False
    for index, given in enumerate(rows):
        found = True
        place = _Place(path=("recipients", "rows", index))
        key, row = _checked_object(given, id_column, place)
        if len(json.dumps(row, ensure_ascii=False).encode()) > MAX_ROW_BYTES:
            raise place.bad(f"is larger than {MAX_ROW_BYTES // 1024} KiB")
        yield Recipient(key, index + 1, row)
    if not found:
        raise _Place(path=("recipients", "rows")).bad("has no recipients")


def decode(raw: bytes, name: str, first_line: int = 1) -> str:
    """UTF-8 text, a byte order mark at the start of a file (line 1) dropped.

    Raises:
        BadInputError: the line of the first byte that is not UTF-8.
    """
    if first_line == 1:
        if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise _Place(name, 1).bad("is UTF-16; save it as UTF-8 (in Excel: 'CSV UTF-8')")
        raw = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = first_line + raw.count(b"\n", 0, error.start)
        raise _Place(name, line).bad(
            f"byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from error


class _Lines:
    """The lines of a stream, decoded and counted, never more than a row's worth in memory."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self.number = 0
        self._stream = stream
        self._name = name
        self.start_record()

    def start_record(self) -> None:
        """The next line begins a record, so the size limit starts anew."""
        self._record_line = self.number + 1
        self._record_bytes = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        raw = self._stream.readline(MAX_ROW_BYTES - self._record_bytes + 1)
        if not raw:
            raise StopIteration
        self.number += 1
        self._record_bytes += len(raw)
        if self._record_bytes > MAX_ROW_BYTES:
            raise _Place(self._name, self._record_line).bad(
                f"the row is larger than {MAX_ROW_BYTES // 1024} KiB; is a quote left open?"
            )
        return decode(raw, self._name, self.number)


def _csv_records(stream: BinaryIO, name: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Each record with the line it starts on; blank lines are skipped."""
    lines = _Lines(stream, name)
    # Not strict, csv reads `"a"b` as `ab` and takes the end of the file for a closing quote.
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.start_record()
        line = lines.number + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            known = (text for part, text in _CSV_ERRORS.items() if part in str(error))
            raise _Place(name, line).bad(next(known, str(error))) from error
        if fields:
            yield line, fields


def _check_header(header: list[str], id_column: str, place: _Place) -> None:
    for number, column in enumerate(header, start=1):
        if not column.strip():
            raise place.bad(f"column {number} of the header has no name")
        if "\0" in column:
            raise place.bad(f"column {number} of the header holds a NUL character")
        if column in header[: number - 1]:
            raise place.bad(f"the header names column {column!r} twice")
    if id_column in header:
        return
    message = f"there is no column {id_column!r}, which recipients.id names; {listed(header)}"
    for separator, written in ((";", ";"), ("\t", r"\t")):
        if len(header) == 1 and separator in header[0]:
            message += f'; to split at it, give recipients.delimiter: "{written}"'
    raise place.bad(message)


def listed(columns: Collection[str]) -> str:
    """The names of ``columns`` for a message, cut short if there are many."""
    shown = list(columns)[:MAX_LISTED]
    more = f" and {len(columns) - len(shown)} more" if len(columns) > len(shown) else ""
    return f"its columns: {', '.join(shown)}{more}"


def _parse_json(text: str, place: _Place) -> object:
    try:
        return json.loads(text, object_pairs_hook=without_doubles)
    except json.JSONDecodeError as error:
        raise place.bad(
            f"is not JSON: {error.msg} at character {error.colno}; give one JSON object a line"
        ) from error
    except RecursionError as error:
        raise place.bad("is nested too deeply") from error
    except ValueError as error:
        raise place.bad(str(error)) from error


def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads`, which would silently keep the last of two equal keys."""
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"key {key!r} is given twice")
        result[key] = value
    return result


def _checked_object(row: object, id_column: str, place: _Place) -> tuple[str, dict[str, Any]]:
    """The recipient's id and its row, once all that it holds can be stored."""
    if not isinstance(row, dict):
        raise place.bad(f"must be an object such as {json.dumps({id_column: '17'})}")
    try:
        _check_value(row, place)
    except RecursionError as error:
        raise place.bad("is nested too deeply") from error
    if id_column not in row:
        raise place.bad(f"there is no {id_column!r}, which recipients.id names; {listed(row)}")
    return _checked_key(row[id_column], place, id_column), row


def _check_value(value: object, place: _Place, *path: str | int) -> None:
    """Refuse what JSON readers pass but PostgreSQL's jsonb cannot hold."""
    if isinstance(value, str):
        try:
            check_storable(value)
        except ValueError as error:
            raise place.bad(str(error), *path) from error
    elif isinstance(value, float) and not math.isfinite(value):
        raise place.bad(f"{value} is not a JSON number", *path)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _check_value(key, place, *path)
            _check_value(item, place, *path, key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_value(item, place, *path, index)


def _checked_key(value: object, place: _Place, id_column: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise place.bad("a recipient's id must be text or an integer", id_column)
    key = str(value)
    if not key.strip():
        raise place.bad("a recipient's id must not be empty", id_column)
    if len(key) > MAX_KEY_CHARS:
        raise place.bad(
            f"a recipient's id has at most {MAX_KEY_CHARS} characters, not {len(key)}", id_column
        )
    return key
