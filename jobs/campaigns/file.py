"""A campaign as it is written: YAML or JSON into a `CampaignSpec`, each problem with its place."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from jobs.campaigns import document
from jobs.campaigns.document import Marks
from jobs.campaigns.keys import check_key
from jobs.campaigns.recipients import Format
from jobs.kinds import KINDS, Kind, KindRequest
from jobs.kinds.values import MAX_SEED, PLACEHOLDER, Stored
from jobs.problems import BadInputError, Problem, from_validation, nearest
from jobs.registry.choice import USE_SAYS, Use
from jobs.trainings.requests import TRAININGS

MAX_CREATIVES = 50
DEFAULT_KIND = "image"
EXAMPLE_TIME = "2026-12-24T18:00:00+01:00"

SeedRule = Literal["per-recipient", "random"] | int
SEED_RULES = ("per-recipient", "random")


Text = Annotated[str, Stored]


class RecipientsSpec(BaseModel):
    """Where the recipients are: ``file``, ``bucket`` or ``rows``; none if uploaded beside it.

    ``bucket`` is the key of a file of the tenant's, see `jobs.campaigns.keys`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[Text, Field(min_length=1, max_length=200)]
    file: Annotated[Text, Field(min_length=1)] | None = None
    bucket: Text | None = None
    rows: list[dict[str, Any]] | None = None
    format: Format | None = None
    delimiter: str | None = None

    @field_validator("delimiter")
    @classmethod
    def _check_delimiter(cls, delimiter: str | None) -> str | None:
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n\0'):
            raise ValueError(r'must be one character, such as ";" or "\t" in double quotes')
        return delimiter

    @field_validator("bucket")
    @classmethod
    def _check_bucket(cls, bucket: str | None) -> str | None:
        if bucket is not None:
            check_key(bucket)
        return bucket

    @model_validator(mode="after")
    def _check_source(self) -> "RecipientsSpec":
        if self.bucket and (self.file or self.rows is not None):
            raise ValueError("give a key in the bucket, a file or rows: one of them")
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
        if kind in TRAININGS:
            raise ValueError(
                f"{kind!r} is a training, not made for each recipient: submit it by itself "
                "(`presswork train submit`), and name here what it makes"
            )
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
    use: Annotated[Use, Field(description=USE_SAYS)] = "commercial"
    deadline: Annotated[
        AwareDatetime | None,
        Field(description="What has not started by then expires.", examples=[EXAMPLE_TIME]),
    ] = None
    recipients: RecipientsSpec
    creatives: Annotated[list[CreativeSpec], Field(min_length=1, max_length=MAX_CREATIVES)]

    _marks: Marks = PrivateAttr(default_factory=Marks)

    def model_post_init(self, context: object) -> None:
        """Keep the marks of the file, for problems that are found later."""
        if isinstance(context, Marks):
            self._marks = context

    @field_validator("deadline", mode="before")
    @classmethod
    def _check_deadline(cls, deadline: object) -> object:
        # Not left to pydantic: it would take numbers, and dates for midnight somewhere.
        try:
            if deadline is None or datetime.fromisoformat(str(deadline)).utcoffset() is not None:
                return deadline
        except ValueError:
            pass
        raise ValueError(f"must be a time with its offset from UTC, such as {EXAMPLE_TIME}")

    def model_of(self, creative: CreativeSpec) -> str:
        """The name of the model that ``creative`` is made with, as far as it is a name at all."""
        own: str | None = creative.request.get("model")
        return own or self.model or KINDS[creative.kind].default_model

    def place(self, problem: Problem) -> Problem:
        """``problem`` with the line of its field, if the campaign came from a file."""
        return self._marks.place(problem)


def load(path: Path) -> CampaignSpec:
    """The campaign in a YAML file.

    Raises:
        BadInputError: the file cannot be read, or what is wrong in it, all at once.
    """
    spec = parse_yaml(document.read_file(path), str(path))
    given = spec.recipients
    if given.file is None and given.bucket is None and given.rows is None:
        raise BadInputError(spec.place(Problem("is required", field="recipients.file")))
    return spec


def parse_yaml(text: str, name: str) -> CampaignSpec:
    """The campaign in ``text``, which came from a file called ``name``.

    Raises:
        BadInputError: all that is wrong, in the order of the lines.
    """
    data, marks, problems = document.read_yaml(text, name)
    try:
        spec = from_mapping(data, marks)
    except BadInputError as error:
        problems.extend(error.problems)
    if problems:
        raise BadInputError(*document.by_line(problems))
    return spec


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
        name: _placeholder(value) if name in kind.templates else value
        for name, value in request.items()
    }
    try:
        return kind.Request.model_validate(fields)
    except ValidationError as error:
        raise BadInputError(*from_validation(error, kind.Request)) from error


def _placeholder(value: object) -> object:
    if isinstance(value, list):
        return [_placeholder(item) for item in value]
    return PLACEHOLDER if value and isinstance(value, str) else value


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
