"""Recipients files: what is read byte for byte, and what is refused at which line."""

import csv
import io
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.campaigns.recipients import (
    MAX_ROW_BYTES,
    Format,
    Recipient,
    format_of,
    from_rows,
    read,
    read_csv,
    read_jsonl,
)
from jobs.problems import BadInputError

# All that UTF-8 and PostgreSQL can hold.
FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


def from_csv(data: bytes, delimiter: str = ",") -> list[Recipient]:
    """All recipients of a CSV file."""
    return list(read_csv(io.BytesIO(data), "r.csv", "id", delimiter))


def from_jsonl(data: bytes) -> list[Recipient]:
    """All recipients of a JSON Lines file."""
    return list(read_jsonl(io.BytesIO(data), "r.jsonl", "id"))


def error_of(recipients: Iterator[Recipient]) -> str:
    """What reading ends with."""
    with pytest.raises(BadInputError) as caught:
        list(recipients)
    return str(caught.value)


@given(st.lists(st.tuples(FIELD, FIELD), min_size=1), st.sampled_from(",;\t|"))
def test_csv_round_trip(rows: list[tuple[str, str]], delimiter: str) -> None:
    """Any text written by csv.writer is read back equal, with the line its record starts on."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(["id", "a", "b"])
    expected = []
    for number, (a, b) in enumerate(rows):
        line = text.getvalue().count("\n") + 1
        expected.append(Recipient(str(number), line, {"id": str(number), "a": a, "b": b}))
        writer.writerow([number, a, b])
    assert from_csv(text.getvalue().encode(), delimiter) == expected


@pytest.mark.parametrize(
    "value", ['=HYPERLINK("http://x")', "藍色 🎨", " spaced ", "{{ x }}", "a\r\nb\n", '"']
)
def test_fields_are_kept(value: str) -> None:
    """Formulas, emoji, Chinese, spaces, quotes and line ends arrive as they were written."""
    quoted = '"' + value.replace('"', '""') + '"'
    assert from_csv(f"id,v\n1,{quoted}\n".encode())[0].row["v"] == value


def test_csv_blank_lines_and_mark() -> None:
    """A byte order mark and blank lines are no data, but the lines are counted."""
    found = from_csv(b"\xef\xbb\xbf\r\nid,v\r\n\r\n1,x\r\n\n2,y")
    assert [(each.key, each.line) for each in found] == [("1", 4), ("2", 6)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "r.csv: is empty; the first line must name the columns"),
        (b"\n\n", "r.csv: is empty; the first line must name the columns"),
        (b"id,v\n", "r.csv: has a header but no recipients"),
        (
            b"name,v\n1,2\n",
            "r.csv:1: there is no column 'id', which recipients.id names; its columns: name, v",
        ),
        (
            b"id;v\n1;2\n",
            (
                "r.csv:1: there is no column 'id', which recipients.id names; its columns: id;v; "
                'to split at it, give recipients.delimiter: ";"'
            ),
        ),
        (
            b"id\tv\n1\t2\n",
            (
                "r.csv:1: there is no column 'id', which recipients.id names; its columns: id\tv; "
                'to split at it, give recipients.delimiter: "\\t"'
            ),
        ),
        (b"id,v,v\n", "r.csv:1: the header names column 'v' twice"),
        (b"id,,v\n", "r.csv:1: column 2 of the header has no name"),
        (b"id,v\0\n", "r.csv:1: column 2 of the header holds a NUL character"),
        (
            b'id,v\n1,"a\nb"\n2\n',
            (
                "r.csv:4: has 1 fields where the header has 2; "
                "quote a field that holds the delimiter or a line end"
            ),
        ),
        (
            b"id,v\n1,2,3\n",
            (
                "r.csv:2: has 3 fields where the header has 2; "
                "quote a field that holds the delimiter or a line end"
            ),
        ),
        (b'id,v\n1,a\n2,"b\nc\n', "r.csv:3: a quoted field is never closed"),
        (
            b'id,v\n1,"a"b\n',
            'r.csv:2: text follows a closing quote; a quote inside a quoted field is written ""',
        ),
        (
            b"id,v\r1,2\r",
            "r.csv:1: a line ends in a carriage return alone; save with LF or CRLF line ends",
        ),
        (b"id,v\n ,2\n", "r.csv:2: id: a recipient's id must not be empty"),
        (
            b"id,v\n" + b"x" * 513 + b",2\n",
            "r.csv:2: id: a recipient's id has at most 512 characters, not 513",
        ),
        (b"id,v\n1,a\0b\n", "r.csv:2: v: holds a NUL character, which cannot be stored"),
        (
            b"id,v\n1,\xc3\xa9\n2,\xe9\n",
            "r.csv:3: byte 0xe9 is not UTF-8; save the file as UTF-8",
        ),
        (
            "id,v\n1,2\n".encode("utf-16"),
            "r.csv:1: is UTF-16; save it as UTF-8 (in Excel: 'CSV UTF-8')",
        ),
        (
            b"id,v\n1,x\n2," + b"x," * 140_000 + b"\n",
            "r.csv:3: the row is larger than 256 KiB; is a quote left open?",
        ),
        (
            b'id,v\n1,x\n2,"' + b"line\n" * 60_000,
            "r.csv:3: a field has more than 131072 characters; is a quote left open?",
        ),
    ],
)
def test_bad_csv(data: bytes, message: str) -> None:
    """A CSV file that cannot be trusted is refused, with the line where its record starts."""
    assert error_of(read_csv(io.BytesIO(data), "r.csv", "id")) == message


def test_rows_before_the_bad_one_are_passed_on() -> None:
    """Rows are read one at a time: a bad row is no reason to hold back those before it."""
    rows = read_csv(io.BytesIO(b"id\n1\n\xff\n"), "r.csv", "id")
    assert next(rows).key == "1"
    with pytest.raises(BadInputError):
        next(rows)


def test_jsonl() -> None:
    """Objects keep nested values; an integer id becomes text; blank lines are skipped."""
    data = '\ufeff{"id": 7, "tags": ["a", {"b": null}]}\r\n\n  \n{"id": "é"}'.encode()
    assert from_jsonl(data) == [
        Recipient("7", 1, {"id": 7, "tags": ["a", {"b": None}]}),
        Recipient("é", 4, {"id": "é"}),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("", "r.jsonl: is empty; give one JSON object a line"),
        (
            '{"id": 1 2}',
            (
                "r.jsonl:2: is not JSON: Expecting ',' delimiter at character 10; "
                "give one JSON object a line"
            ),
        ),
        ("[1]", """r.jsonl:2: must be an object such as {"id": "17"}"""),
        ('{"id": 1, "v": NaN}', "r.jsonl:2: v: nan is not a JSON number"),
        ('{"id": 1, "v": [1e999]}', "r.jsonl:2: v[0]: inf is not a JSON number"),
        (
            '{"id": 1, "v": {"w": "\\ud800"}}',
            "r.jsonl:2: v.w: holds half of a surrogate pair, which is not text",
        ),
        (
            '{"id": 1, "v": "\\u0000"}',
            "r.jsonl:2: v: holds a NUL character, which cannot be stored",
        ),
        ('{"id": 1, "v": {"w": 1, "w": 2}}', "r.jsonl:2: key 'w' is given twice"),
        (
            '{"key": 1}',
            "r.jsonl:2: there is no 'id', which recipients.id names; its columns: key",
        ),
        ('{"id": true}', "r.jsonl:2: id: a recipient's id must be text or an integer"),
        ('{"id": 1.5}', "r.jsonl:2: id: a recipient's id must be text or an integer"),
        ('{"id": ""}', "r.jsonl:2: id: a recipient's id must not be empty"),
        ("[" * 100_000, "r.jsonl:2: is nested too deeply"),
        (
            '{"id": "' + "x" * MAX_ROW_BYTES + '"}',
            "r.jsonl:2: the row is larger than 256 KiB; is a quote left open?",
        ),
    ],
)
def test_bad_jsonl(row: str, message: str) -> None:
    """A JSON Lines file is refused at the first line that is no storable object with an id."""
    assert error_of(read_jsonl(io.BytesIO(f"\n{row}".encode()), "r.jsonl", "id")) == message


def test_inline_rows() -> None:
    """Rows of a request are numbered from one, as lines are."""
    assert list(from_rows([{"id": "a"}, {"id": 2}], "id")) == [
        Recipient("a", 1, {"id": "a"}),
        Recipient("2", 2, {"id": 2}),
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "recipients.rows: has no recipients"),
        ([{"id": 1}, 5], 'recipients.rows[1]: must be an object such as {"id": "17"}'),
        (
            [{"id": 1, "v": "\0"}],
            "recipients.rows[0].v: holds a NUL character, which cannot be stored",
        ),
        ([{"id": 1, "v": "é" * MAX_ROW_BYTES}], "recipients.rows[0]: is larger than 256 KiB"),
    ],
)
def test_bad_inline_rows(rows: list[Any], message: str) -> None:
    """Inline rows are held to the same rules, and named by their field."""
    assert error_of(from_rows(rows, "id")) == message


def test_format_by_name() -> None:
    """The file's name says its format, unless it says nothing."""
    assert (format_of("a.CSV"), format_of("b.jsonl")) == ("csv", "jsonl")
    with pytest.raises(BadInputError, match=r"'a\.txt' ends in neither \.csv nor \.jsonl"):
        format_of("a.txt")


@pytest.mark.parametrize(
    ("data", "format_", "delimiter"),
    [(b"id|v\n1|x\n", "csv", "|"), (b"id,v\n1,x\n", "csv", None), (b'{"id":"1"}', "jsonl", None)],
)
def test_read_by_format(data: bytes, format_: Format, delimiter: str | None) -> None:
    """One door for both formats."""
    assert next(read(io.BytesIO(data), "r", "id", format_, delimiter)).key == "1"


def test_delimiter_of_jsonl() -> None:
    """A delimiter that would do nothing is a mistake."""
    with pytest.raises(BadInputError, match=r"recipients\.delimiter: is for csv only"):
        read(io.BytesIO(b""), "r.jsonl", "id", "jsonl", ";")
