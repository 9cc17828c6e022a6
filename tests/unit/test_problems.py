"""Problems: where each one is, how it is printed, and which key was probably meant."""

from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from jobs.problems import (
    BadInputError,
    Problem,
    dotted,
    found_in,
    from_errors,
    from_validation,
    known_keys,
    nearest,
)


class Inner(BaseModel):
    """What lies deeper."""

    model_config = ConfigDict(extra="forbid")

    size: Annotated[int, Field(ge=1)] = 1
    steps: int = 1


class Outer(BaseModel):
    """Ways in which models contain models."""

    model_config = ConfigDict(extra="forbid")

    name: str
    one: Inner | None = None
    many: list[Inner] = []
    free: dict[str, Any] = {}


def problems_of(data: object) -> list[str]:
    """What is wrong with ``data``, as it is printed."""
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(data)
    return [str(problem) for problem in from_validation(caught.value, Outer)]


@pytest.mark.parametrize(
    ("problem", "printed"),
    [
        (Problem("is wrong"), "is wrong"),
        (Problem("is wrong", "a.csv"), "a.csv: is wrong"),
        (Problem("is wrong", "a.csv", 3), "a.csv:3: is wrong"),
        (Problem("is wrong", "a.csv", 3, "size"), "a.csv:3: size: is wrong"),
        (Problem("is wrong", field="size"), "size: is wrong"),
    ],
)
def test_printed(problem: Problem, printed: str) -> None:
    """A problem prints as compilers do: file, line, field, and what is wrong."""
    assert str(problem) == printed


def test_as_a_dict() -> None:
    """Places that are not known are left out."""
    assert Problem("m").as_dict() == {"message": "m"}
    assert Problem("m", "f", 1, "x").as_dict() == {
        "message": "m",
        "file": "f",
        "line": 1,
        "field": "x",
    }


def test_an_error_prints_all_its_problems() -> None:
    """One line each, in their order."""
    assert str(BadInputError(Problem("a"), Problem("b", field="f"))) == "a\nf: b"


@pytest.mark.parametrize(
    ("location", "text"),
    [
        ((), ""),
        (("a",), "a"),
        (("a", "b"), "a.b"),
        (("creatives", 0, "size"), "creatives[0].size"),
        ((2, "a"), "[2].a"),
        (("rows", 1, 2), "rows[1][2]"),
    ],
)
def test_dotted(location: tuple[str | int, ...], text: str) -> None:
    """A location reads like the expression that leads to it."""
    assert dotted(location) == text


@pytest.mark.parametrize(
    ("word", "known", "hint"),
    [
        ("stesp", ["size", "steps"], "did you mean 'steps'?"),
        ("zzz", ["size", "steps"], "known: size, steps"),
        ("zzz", ["b", "a"], "known: a, b"),
        ("zzz", [], ""),
    ],
)
def test_nearest(word: str, known: list[str], hint: str) -> None:
    """The nearest known word, all of them where none is near, or nothing at all."""
    assert nearest(word, known) == hint


@pytest.mark.parametrize(
    ("location", "known"),
    [
        ((), ["name", "one", "many", "free"]),
        (("one",), ["size", "steps"]),
        (("many", 3), ["size", "steps"]),
        (("name",), []),
        (("free", "x"), []),
        (("nothing", "x"), []),
    ],
)
def test_known_keys(location: tuple[str | int, ...], known: list[str]) -> None:
    """The keys of the object at a place, through lists and optional values."""
    assert known_keys(Outer, location) == known


@pytest.mark.parametrize(
    ("data", "problems"),
    [
        ({}, ["name: is required"]),
        ({"name": "x", "nmae": 1}, ["nmae: unknown key; did you mean 'name'?"]),
        (
            {"name": "x", "one": {"szie": 1}},
            ["one.szie: unknown key; did you mean 'size'?"],
        ),
        (
            {"name": "x", "many": [{}, {"size": 0, "stesp": 1}]},
            [
                "many[1].size: Input should be greater than or equal to 1",
                "many[1].stesp: unknown key; did you mean 'steps'?",
            ],
        ),
        ([], ["Input should be a valid dictionary or instance of Outer"]),
    ],
)
def test_from_validation(data: object, problems: list[str]) -> None:
    """What pydantic says becomes a problem each, with hints for keys that are not known."""
    assert problems_of(data) == problems


def test_problems_quote_no_values() -> None:
    """What was sent may be secret or personal: only its place is repeated."""
    assert "hidden" not in problems_of({"name": ["hidden"]})[0]


def test_without_a_model_there_are_no_hints() -> None:
    """A key is unknown, and that is all that can be said; no field is no empty field."""
    errors: list[dict[str, Any]] = [
        {"type": "extra_forbidden", "loc": ("x",), "msg": "..."},
        {"type": "value_error", "loc": (), "msg": "Value error, does not fit"},
    ]
    assert from_errors(errors, None) == [
        Problem("unknown key", field="x"),
        Problem("does not fit", field=None),
    ]


def test_found_in_names_the_file() -> None:
    """Problems get the file unless they name one already; other errors pass."""
    with pytest.raises(BadInputError) as caught, found_in("job.json"):
        raise BadInputError(Problem("a", field="x"), Problem("b", "r.csv", 2))
    assert caught.value.problems == (
        Problem("a", "job.json", None, "x"),
        Problem("b", "r.csv", 2),
    )
    with pytest.raises(KeyError), found_in("job.json"):
        raise KeyError
