"""A training as it is written: YAML into a `Recipe`, each problem with its place."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from jobs.campaigns import document
from jobs.campaigns.document import Marks
from jobs.campaigns.file import Text, under
from jobs.datasets.definition import DatasetSpec, licence_problems
from jobs.problems import BadInputError, Problem, from_validation, nearest
from jobs.trainings.requests import TRAININGS, problems_of

_LOCAL = ("dir", "zip", "jsonl")


class DatasetEntry(DatasetSpec):
    """A dataset that is added if it is not there yet; None: its files are named elsewhere."""

    source: Text | None = None

    @property
    def spec(self) -> DatasetSpec:
        """What is said of it, whatever it comes from."""
        return DatasetSpec(**self.model_dump(exclude={"source"}))


@dataclass(frozen=True)
class Recipe:
    """A training whose every field is right in itself; ``request`` names its dataset.

    ``dataset`` None: the dataset must be there.
    """

    kind: str
    request: Mapping[str, Any]
    dataset: DatasetEntry | None
    marks: Marks

    def place(self, problem: Problem) -> Problem:
        """``problem`` with the line of its field."""
        return self.marks.place(problem)

    def named(self, name: str | None) -> "Recipe":
        """The same for a model of another name; None: as the file has it."""
        return replace(self, request={**self.request, "name": name}) if name else self


def load(path: Path) -> Recipe:
    """The recipe in a YAML file; paths in it are relative to its folder.

    Raises:
        BadInputError: the file cannot be read, or what is wrong in it, all at once.
    """
    data, marks, problems = document.read_yaml(document.read_file(path), str(path))
    try:
        recipe = from_mapping(data, marks, path.parent)
    except BadInputError as error:
        problems.extend(error.problems)
    if problems:
        raise BadInputError(*document.by_line(problems))
    return recipe


def from_mapping(data: object, marks: Marks, folder: Path) -> Recipe:
    """The recipe in the form that YAML gives.

    Raises:
        BadInputError: all that is wrong.
    """
    if not isinstance(data, dict):
        raise BadInputError(marks.place(Problem("must be a mapping with kind, name, dataset, ...")))
    kind = data.get("kind")
    if kind not in TRAININGS:
        wrong = "is required"
        if "kind" in data:
            wrong = f"unknown kind {kind!r}; {nearest(str(kind), list(TRAININGS))}"
        raise BadInputError(marks.place(Problem(wrong, field="kind")))
    request = {name: value for name, value in data.items() if name != "kind"}
    given = request.get("dataset")
    entry = None
    problems: list[Problem] = []
    if isinstance(given, dict):
        entry, problems = _entry(given, folder)
        # What is wrong with the name was said; the rest is checked all the same.
        request["dataset"] = entry.name if entry else "dataset"
    problems += _request_problems(kind, request)
    if problems:
        raise BadInputError(*map(marks.place, problems))
    return Recipe(kind, request, entry, marks)


def _entry(given: dict[str, Any], folder: Path) -> tuple[DatasetEntry | None, list[Problem]]:
    try:
        entry = DatasetEntry.model_validate(given)
    except ValidationError as error:
        return None, [under(wrong, "dataset") for wrong in from_validation(error, DatasetEntry)]
    scheme, colon, place = (entry.source or "").partition(":")
    if scheme in _LOCAL and place:
        entry = entry.model_copy(update={"source": f"{scheme}{colon}{folder / place}"})
    return entry, [under(wrong, "dataset") for wrong in licence_problems(entry)]


def _request_problems(kind: str, request: Mapping[str, Any]) -> Iterator[Problem]:
    try:
        TRAININGS[kind].model_validate(request)
    except ValidationError as error:
        yield from problems_of(error, kind)
