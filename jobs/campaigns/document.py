"""YAML and JSON as they are written: plain values, each with the line that it stands on."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from jobs.campaigns.recipients import decode, without_doubles
from jobs.problems import BadInputError, Problem, dotted

MAX_FILE_BYTES = 1024 * 1024

_TEXT_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "timestamp", "value"))
"""A date stays as it is written: recipients and prompts are text, and JSON knows no dates."""
_TYPED_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float"))
_MAP_TAG = "tag:yaml.org,2002:map"
_LIST_TAG = "tag:yaml.org,2002:seq"


@dataclass(frozen=True)
class Marks:
    """Where each field stands in the file it came from; empty for a request without a file.

    ``prefix`` is the field under which what is read stands in a larger document.
    """

    file: str | None = None
    lines: Mapping[str, int] = field(default_factory=dict)
    prefix: str = ""

    def place(self, problem: Problem) -> Problem:
        """``problem`` with file and line; a field that is absent stands at its parent's line."""
        if problem.file is not None:
            return problem
        place = ".".join(part for part in (self.prefix, problem.field) if part)
        if self.file is None:
            return replace(problem, field=place or None)
        known = place
        while known and known not in self.lines:
            known = known[: max(known.rfind("."), known.rfind("["), 0)]
        return replace(problem, file=self.file, line=self.lines.get(known), field=place or None)


def read_file(path: Path) -> str:
    """The text of a file that somebody wrote by hand.

    Raises:
        BadInputError: it cannot be read, is larger than `MAX_FILE_BYTES`, or is not UTF-8.
    """
    name = str(path)
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise BadInputError(Problem(f"cannot be read: {error.strerror}", name)) from error
    if len(raw) > MAX_FILE_BYTES:
        raise BadInputError(
            Problem(f"is larger than {MAX_FILE_BYTES // 1024} KiB; recipients go in a file", name)
        )
    return decode(raw, name)


def read_yaml(text: str, name: str) -> tuple[object, Marks, list[Problem]]:
    """What ``text`` says, where each field of it stands, and what is wrong with single values.

    Raises:
        BadInputError: it is no YAML at all.
    """
    tree = _Tree(name)
    data = tree.read(text)
    return data, Marks(name, tree.lines), tree.problems


def by_line(problems: Iterable[Problem]) -> list[Problem]:
    """``problems`` in the order in which they stand in the file."""
    return sorted(problems, key=lambda problem: problem.line or 0)


def parse_json(text: str, name: str) -> object:
    """The JSON document ``text``, which came from a file or a request called ``name``.

    Raises:
        BadInputError: it is not JSON, or gives a key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=without_doubles)
    except json.JSONDecodeError as error:
        message = f"is not JSON: {error.msg} at character {error.colno}"
        raise BadInputError(Problem(message, name, error.lineno)) from error
    except (RecursionError, ValueError) as error:
        message = "is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise BadInputError(Problem(message, name)) from error


class _Tree:
    """YAML as plain dicts, lists and scalars, with the line of every field."""

    def __init__(self, name: str) -> None:
        self.lines: dict[str, int] = {}
        self.problems: list[Problem] = []
        self._name = name

    def read(self, text: str) -> object:
        try:
            loader = _Loader(text)
            node = loader.get_single_node()
            if node is None:
                raise BadInputError(Problem("is empty", self._name))
            return self._value(loader, node, ())
        except yaml.MarkedYAMLError as error:
            raise BadInputError(self._syntax_problem(error)) from error
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            message = f"character U+{ord(text[error.position]):04X} is not allowed in YAML"
            raise BadInputError(Problem(message, self._name, line)) from error
        except RecursionError as error:
            raise BadInputError(Problem("is nested too deeply", self._name)) from error

    def _syntax_problem(self, error: yaml.MarkedYAMLError) -> Problem:
        mark = error.problem_mark or error.context_mark
        message = f"is not valid YAML: {error.problem}"
        if "'\\t'" in message:
            message = "is not valid YAML: a tab; indent with spaces"
        elif error.context and error.context_mark:
            message += f" ({error.context} that starts on line {error.context_mark.line + 1})"
        return Problem(message, self._name, mark.line + 1 if mark else None)

    def _value(self, loader: "_Loader", node: yaml.Node, path: tuple[str | int, ...]) -> object:
        self.lines.setdefault(dotted(path), node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode) and node.tag == _MAP_TAG:
            return self._mapping(loader, node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == _LIST_TAG:
            return [
                self._value(loader, item, (*path, index)) for index, item in enumerate(node.value)
            ]
        if isinstance(node, yaml.ScalarNode) and node.tag in _TEXT_TAGS:
            return node.value
        if isinstance(node, yaml.ScalarNode) and node.tag in _TYPED_TAGS:
            return self._number(loader, node, path)
        self._problem(node, path, f"tag {node.tag} is not accepted; write plain values")
        return None

    def _number(
        self, loader: "_Loader", node: yaml.ScalarNode, path: tuple[str | int, ...]
    ) -> object:
        """Also true, false and null."""
        if ":" in node.value:  # YAML 1.1 reads 12:30 as the number 750
            return node.value
        try:
            return loader.construct_object(node)
        except (ValueError, LookupError):  # what PyYAML lets through for `!!bool maybe`
            self._problem(node, path, f"is no value of type {node.tag.rpartition(':')[2]}")
            return None

    def _mapping(
        self, loader: "_Loader", node: yaml.MappingNode, path: tuple[str | int, ...]
    ) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._problem(key_node, path, "a key must be plain text")
                continue
            key = key_node.value
            place = (*path, key)
            if key in result:
                first = self.lines[dotted(place)]
                self._problem(key_node, place, f"is given twice; first on line {first}")
                continue
            self.lines[dotted(place)] = key_node.start_mark.line + 1
            result[key] = self._value(loader, value_node, place)
        return result

    def _problem(self, node: yaml.Node, path: tuple[str | int, ...], message: str) -> None:
        line = node.start_mark.line + 1
        self.problems.append(Problem(message, self._name, line, dotted(path) or None))


class _Loader(yaml.SafeLoader):
    """Without aliases: a few lines of them grow to gigabytes when they are resolved."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None,
                None,
                f"alias *{event.anchor} is not accepted; repeat the value",
                event.start_mark,
            )
        return super().compose_node(parent, index)
