"""JSON Lines: one object a line, each problem with its line."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.campaigns import document
from jobs.campaigns.recipients import decode
from jobs.problems import BadInputError, Problem

MAX_LINE_BYTES = 1024**2


def read(file: Path, name: str, problems: list[Problem]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each line's number, 1-based, and its object; ``problems`` grows by what is none.

    Blank lines are skipped. Nothing is read behind a line that is too long.
    """
    number = 0
    with file.open("rb") as stream:
        while raw := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(raw) > MAX_LINE_BYTES:
                message = f"is longer than {MAX_LINE_BYTES // 1024} KiB; nothing after it was read"
                problems.append(Problem(message, name, number))
                return
            try:
                text = decode(raw, name, number).strip()
                if not text:
                    continue
                given = document.parse_json(text, name)
            except BadInputError as error:
                problems += [replace(item, file=name, line=number) for item in error.problems]
            else:
                if isinstance(given, dict):
                    yield number, given
                else:
                    problems.append(Problem("must be a JSON object", name, number))
