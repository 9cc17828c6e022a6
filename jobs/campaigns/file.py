"""A campaign as it is written: YAML or JSON into a `CampaignSpec`, each problem with its place."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from jobs.campaigns.recipients import Format, decode, without_doubles
from jobs.kinds import KINDS, Kind, KindRequest
from jobs.kinds.values import MAX_SEED, check_storable
from jobs.problems import BadInputError, Problem, dotted, from_validation, nearest

MAX_FILE_BYTES = 1024 * 1024
MAX_CREATIVES = 50
DEFAULT_KIND = "image"

SeedRule = Literal["per-recipient", "random"] | int
SEED_RULES = ("per-recipient", "random")

_TEXT_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "timestamp", "value"))
"""A date stays as it is written: recipients and prompts are text, and JSON knows no dates."""
_TYPED_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float"))
_MAP_TAG = "tag:yaml.org,2002:map"
_LIST_TAG = "tag:yaml.org,2002:seq"


@dataclass(frozen=True)
class Marks:
    """Where each field stands in the file it came from; empty for a request without a file."""

    file: str | None = None
    lines: Mapping[str, int] = field(default_factory=dict)

    def place(self, problem: Problem) -> Problem:
        """``problem`` with file and line; a field that is absent stands at its parent's line."""
        if self.file is None or problem.file is not None:
            return problem
        known = problem.field or ""
        while known and known not in self.lines:
            known = known[: max(known.rfind("."), known.rfind("["), 0)]
        return replace(problem, file=self.file, line=self.lines.get(known))


def _check_stored(text: str) -> str:
    check_storable(text)
    return text


Text = Annotated[str, AfterValidator(_check_stored)]


class RecipientsSpec(BaseModel):
    """Where the recipients are: ``file`` or ``rows``; neither if they are uploaded beside it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[Text, Field(min_length=1, max_length=200)]
    file: Annotated[Text, Field(min_length=1)] | None = None
    rows: list[dict[str, Any]] | None = None
    format: Format | None = None
    delimiter: str | None = None

    @field_validator("delimiter")
    @classmethod
    def _check_delimiter(cls, delimiter: str | None) -> str | None:
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n\0'):
            raise ValueError(r'must be one character, such as ";" or "\t" in double quotes')
        return delimiter

    @model_validator(mode="after")
    def _check_source(self) -> "RecipientsSpec":
        if self.rows is not None and (self.file or self.format or self.delimiter):
            raise ValueError("rows come without file, format and delimiter")
        if self.format == "jsonl" and self.delimiter:
            raise ValueError("a delimiter is for csv only")
        return self


class CreativeSpec(BaseModel):
    """One thing to make per recipient; its further fields are its kind's request."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str
    kind: str = DEFAULT_KIND
    seed: SeedRule = "per-recipient"

    @property
    def request(self) -> dict[str, Any]:
        """The fields for the kind's request, templates as source text."""
        return dict(self.model_extra or {})

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        # Outputs are filed under it, so it must be safe as a file name everywhere.
        if not re.fullmatch(r"(?!\.+$)[A-Za-z0-9._-]{1,64}", name):
            raise ValueError(f"{name!r} is not 1 to 64 letters, digits, '-', '_' or '.'")
        return name

    @field_validator("kind")
    @classmethod
    def _check_kind(cls, kind: str) -> str:
        if kind not in KINDS:
            raise ValueError(f"unknown kind {kind!r}; {nearest(kind, list(KINDS))}")
        return kind

    @field_validator("seed", mode="before")
    @classmethod
    def _check_seed(cls, seed: object) -> object:
        # Not left to the union: it would report one error per alternative and take true for 1.
        if seed in SEED_RULES:
            return seed
        if isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed <= MAX_SEED:
            return seed
        raise ValueError(f"must be {', '.join(SEED_RULES)} or an integer from 0 to {MAX_SEED}")


class CampaignSpec(BaseModel):
    """A campaign whose every field is right in itself; models and templates are not looked at."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[Text, Field(min_length=1, max_length=200)]
    model: Text | None = None
    recipients: RecipientsSpec
    creatives: Annotated[list[CreativeSpec], Field(min_length=1, max_length=MAX_CREATIVES)]

    _marks: Marks = PrivateAttr(default_factory=Marks)

    def model_post_init(self, context: object) -> None:
        """Keep the marks of the file, for problems that are found later."""
        if isinstance(context, Marks):
            self._marks = context

    def place(self, problem: Problem) -> Problem:
        """``problem`` with the line of its field, if the campaign came from a file."""
        return self._marks.place(problem)


def load(path: Path) -> CampaignSpec:
    """The campaign in a YAML file.

    Raises:
        BadInputError: the file cannot be read, or what is wrong in it, all at once.
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
    spec = parse_yaml(decode(raw, name), name)
    if spec.recipients.file is None and spec.recipients.rows is None:
        raise BadInputError(spec.place(Problem("is required", field="recipients.file")))
    return spec


def parse_yaml(text: str, name: str) -> CampaignSpec:
    """The campaign in ``text``, which came from a file called ``name``.

    Raises:
        BadInputError: all that is wrong, in the order of the lines.
    """
    tree = _Tree(name)
    data = tree.read(text)
    problems = tree.problems
    try:
        spec = from_mapping(data, Marks(name, tree.lines))
    except BadInputError as error:
        problems.extend(error.problems)
    if problems:
        raise BadInputError(*sorted(problems, key=lambda problem: problem.line or 0))
    return spec


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


def from_mapping(data: object, marks: Marks | None = None) -> CampaignSpec:
    """The campaign in the form that JSON gives.

    Raises:
        BadInputError: all that is wrong, with dotted fields, and lines as far as ``marks`` knows.
    """
    marks = marks or Marks()
    if not isinstance(data, dict):
        raise BadInputError(marks.place(Problem("must be a mapping with name, recipients, ...")))
    problems = list(_creative_problems(data.get("creatives")))
    try:
        spec = CampaignSpec.model_validate(data, context=marks)
    except ValidationError as error:
        problems += from_validation(error, CampaignSpec)
    if problems:
        raise BadInputError(*map(marks.place, problems))
    return spec


def draft(kind: Kind, request: Mapping[str, Any]) -> KindRequest:
    """The kind's request with a placeholder for each template, which checks all other fields.

    Raises:
        BadInputError: with fields relative to the request.
    """
    fields = {
        name: "placeholder"
        if name in kind.templates and value and isinstance(value, str)
        else value
        for name, value in request.items()
    }
    try:
        return kind.Request.model_validate(fields)
    except ValidationError as error:
        raise BadInputError(*from_validation(error, kind.Request)) from error


def under(problem: Problem, prefix: str) -> Problem:
    """``problem`` with its field seen from the outside: ``size`` as ``creatives[0].size``."""
    return replace(problem, field=f"{prefix}.{problem.field}" if problem.field else prefix)


def _creative_problems(creatives: object) -> Iterator[Problem]:
    """What pydantic cannot see from `CreativeSpec`: the kind's own fields, and double names."""
    taken: dict[str, int] = {}
    for index, creative in enumerate(creatives if isinstance(creatives, list) else []):
        prefix = f"creatives[{index}]"
        if not isinstance(creative, dict):
            continue
        name = creative.get("name")
        if isinstance(name, str) and taken.setdefault(name.lower(), index) != index:
            first = taken[name.lower()]
            message = f"{name!r} is the name of creatives[{first}] too; case does not count"
            yield Problem(message, field=f"{prefix}.name")
        kind = KINDS.get(str(creative.get("kind", DEFAULT_KIND)))
        if kind:
            yield from (under(problem, prefix) for problem in _request_problems(kind, creative))


def _request_problems(kind: Kind, creative: dict[str, Any]) -> Iterator[Problem]:
    own = CreativeSpec.model_fields
    known = [*own, *(name for name in kind.Request.model_fields if name not in own)]
    for key in creative:
        if key not in known:
            yield Problem(f"unknown key; {nearest(key, known)}", field=key)
    request = {key: value for key, value in creative.items() if key in known and key not in own}
    try:
        draft(kind, request)
    except BadInputError as error:
        yield from error.problems


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
