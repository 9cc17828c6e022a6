"""What is wrong with what a caller sent: one error type that every door renders in its own way."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from pydantic import BaseModel, ValidationError


@dataclass(frozen=True)
class Problem:
    """One thing to mend: what, and where (file, 1-based line, dotted field) as far as known."""

    message: str
    file: str | None = None
    line: int | None = None
    field: str | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        return ": ".join(part for part in (place, self.field, self.message) if part)

    def as_dict(self) -> dict[str, Any]:
        """Without the places that are not known."""
        return {key: value for key, value in asdict(self).items() if value is not None}


class BadInputError(Exception):
    """The request is refused as a whole and nothing was created."""

    def __init__(self, *problems: Problem) -> None:
        assert problems
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


@contextmanager
def found_in(file: str) -> Iterator[None]:
    """Problems that leave the block without a file get this one."""
    try:
        yield
    except BadInputError as error:
        placed = (replace(item, file=item.file or file) for item in error.problems)
        raise BadInputError(*placed) from error


class NotFoundError(Exception):
    """No such thing, or it belongs to another tenant: the two are not told apart."""


class ConflictError(Exception):
    """The thing exists but its state does not allow what was asked."""


def nearest(word: str, known: Sequence[str]) -> str:
    """A hint for a misspelt ``word``: the nearest of ``known``, or all of them."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(sorted(known))}" if known else ""


def known_keys(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """The keys accepted by the object at ``location`` inside ``model``, as far as declared."""
    current: type[BaseModel] | None = model
    for part in location:
        if isinstance(part, int):
            continue
        field = current.model_fields.get(part) if current else None
        current = _model_in(field.annotation) if field else None
    return list(current.model_fields) if current else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model that an annotation such as ``list[Model] | None`` is about."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found:
            return found
    return None


def from_validation(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """One `Problem` per pydantic error, an unknown key with the nearest known one."""
    return from_errors(error.errors(include_url=False, include_context=False), model)


def from_errors(
    errors: Iterable[Mapping[str, Any]], model: type[BaseModel] | None
) -> list[Problem]:
    """The same for errors that pydantic has listed; ``model`` None: no hints."""
    problems = []
    for item in errors:
        location = item["loc"]
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            known = known_keys(model, location[:-1]) if model else []
            message = f"unknown key; {nearest(str(location[-1]), known)}".removesuffix("; ")
        elif item["type"] == "missing":
            message = "is required"
        problems.append(Problem(message, field=dotted(location) or None))
    return problems


def dotted(location: Sequence[str | int]) -> str:
    """``("creatives", 0, "size")`` as ``creatives[0].size``."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")
