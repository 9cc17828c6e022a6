"""Prompt recipes: what a model is told for a headline, a summary, a reply. One file of data each.

A recipe's ``{name}`` stands for a value of the request. A line in which one of them is empty is
left out. Values are put in once and never read as a template, whatever they hold.
"""

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from jobs.kinds.answers import check_schema

Length = Literal["short", "medium", "long"]

VALUES = frozenset(
    {"text", "details", "audience", "language", "tone", "words", "conversation", "choices"}
    | {"schema"}
)
"""What a recipe may name in braces."""

OPTIONAL = ("details", "audience", "language", "tone", "length", "conversation")
"""The fields of a request that not every recipe has a place for."""

_NAMED = re.compile(r"\{(\w+)\}")


class Recipe(BaseModel):
    """A recipe's file. With ``labels`` it chooses one, with ``json_schema`` it answers in JSON.

    ``words`` are those of each length; a request that says none takes ``medium``. ``max_tokens``
    is the limit of an answer whose length in words is not asked for. ``begin`` is put into the
    model's mouth, and is no part of the answer; nor is it used for JSON.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    summary: str
    system: str
    user: str
    begin: str = ""
    needs: tuple[Literal["details", "audience", "language", "conversation"], ...] = ()
    tone: str = ""
    words: dict[Length, Annotated[int, Field(ge=1)]] = {}
    max_tokens: Annotated[int, Field(ge=1)] = 256
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    labels: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    json_schema: dict[str, Any] | None = None
    example: dict[str, Any]

    @field_validator("system", "user")
    @classmethod
    def _check_template(cls, template: str) -> str:
        check_template(template)
        return template

    @field_validator("json_schema")
    @classmethod
    def _check_json_schema(cls, schema: dict[str, Any] | None) -> dict[str, Any] | None:
        if schema is not None:
            check_schema(schema)
        return schema

    @model_validator(mode="after")
    def _check_whole(self) -> "Recipe":
        if "text" not in named(self.user):
            raise ValueError("user does not name {text}")
        if self.words and set(self.words) != {"short", "medium", "long"}:
            raise ValueError("words has short, medium and long, or is left out")
        if self.labels and self.json_schema:
            raise ValueError("a recipe has labels or a json_schema")
        missing = set(self.needs) - self.takes
        if missing:
            raise ValueError(f"needs {', '.join(sorted(missing))} and does not name it")
        return self

    @property
    def takes(self) -> frozenset[str]:
        """The fields of `OPTIONAL` that it has a place for, and ``schema``."""
        values = named(self.system) | named(self.user)
        return values - {"words"} | ({"length"} if "words" in values else set())


def recipes() -> Mapping[str, Recipe]:
    """Every recipe, by name: one for each file beside this module."""
    return _recipes()


@functools.cache
def _recipes() -> Mapping[str, Recipe]:
    files = sorted(Path(__file__).parent.glob("*.yaml"))
    return MappingProxyType({file.stem: read(file) for file in files})


def read(file: Path) -> Recipe:
    """The recipe in ``file``, named after it; ValueError (pydantic's) says what is wrong."""
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    return Recipe.model_validate({"name": file.stem, **data})


def named(template: str) -> frozenset[str]:
    """The values that ``template`` names."""
    return frozenset(_NAMED.findall(template))


def check_template(template: str) -> None:
    """ValueError if ``template`` names what is no value of a request."""
    unknown = named(template) - VALUES
    if unknown:
        raise ValueError(
            f"names {', '.join(sorted(unknown))}; there are: {', '.join(sorted(VALUES))}"
        )


def fill(template: str, values: Mapping[str, str]) -> str:
    """``template`` with its values put in, once; lines that name an empty one are left out."""
    lines = [
        _NAMED.sub(lambda match: values[match[1]], line)
        for line in template.splitlines()
        if all(values.get(name) for name in named(line))
    ]
    return "\n".join(lines).strip()
