"""What creatives start from: files, and what other creatives make for the same recipient."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.campaigns.templates import Template
from jobs.kinds import Kind, references
from jobs.kinds.references import Reference
from jobs.problems import BadInputError, Problem, nearest

_FROM_ROWS = ("file", "picture")


@dataclass(frozen=True)
class Inputs:
    """A creative, and the references in its fields that are the same for every recipient."""

    name: str
    kind: Kind
    references: Sequence[tuple[str, Reference]]

    @property
    def needs(self) -> tuple[str, ...]:
        """The names of the creatives that it starts from, each once."""
        found = (item.place for _, item in self.references if item.scheme == "creative")
        return tuple(dict.fromkeys(found))


def texts(parameters: Mapping[str, Any], field: str) -> Iterator[tuple[str, str]]:
    """The text in a field, or each one in a list of them: ``pictures[0]``, with its place."""
    value = parameters.get(field)
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, list | tuple):
        yield from (
            (f"{field}[{index}]", item) for index, item in enumerate(value) if isinstance(item, str)
        )


def inputs_of(
    name: str, kind: Kind, parameters: Mapping[str, Any], templates: Mapping[str, Template]
) -> Inputs:
    """The inputs of a creative; what its templates will name, only a row can tell.

    Raises:
        BadInputError: a reference is wrong, or none that a campaign can have.
    """
    found, problems = [], []
    for field in kind.inputs:
        for place, source in texts(parameters, field):
            try:
                reference = _reference(source, templates.get(place))
            except ValueError as error:
                problems.append(Problem(str(error), field=place))
            else:
                if reference:
                    found.append((place, reference))
    if problems:
        raise BadInputError(*problems)
    return Inputs(name, kind, found)


def _reference(source: str, template: Template | None) -> Reference | None:
    scheme = source.partition(":")[0]
    if scheme == "job":
        raise ValueError("job:ID is for single jobs; here creative:NAME names another creative")
    if template is None or template.is_literal:
        return references.parse(source)
    if scheme == "creative":
        raise ValueError(
            "what a creative starts from is the same for every recipient: write the name out"
        )
    return None


def check_rendered(template: Template, text: str) -> None:
    """A row may choose among files, but not what a job needs: that was settled before it.

    Raises:
        BadInputError: it names something else.
    """
    if template.is_literal:
        return
    try:
        scheme = references.parse(text).scheme
    except ValueError:
        return  # the request says so itself
    if scheme in _FROM_ROWS or (scheme == "sample" and template.source.startswith("sample:")):
        return
    raise BadInputError(
        Problem(f"a row may name a file or picture:SHA256, but not {scheme}: anything")
    )


def check(creatives: Sequence[Inputs]) -> list[Problem]:
    """What is wrong with how they need one another, with fields such as ``creatives[0].voice``."""
    problems: list[Problem] = []
    kinds = {creative.name: creative.kind for creative in creatives}
    for index, creative in enumerate(creatives):
        others = [name for name in kinds if name != creative.name]
        for place, reference in creative.references:
            if reference.scheme == "creative":
                message = _wrong(creative, place, reference.place, kinds, others)
                if message:
                    problems.append(Problem(message, field=f"creatives[{index}].{place}"))
    return problems or list(_circles(creatives))


def _wrong(
    creative: Inputs, place: str, name: str, kinds: Mapping[str, Kind], others: Sequence[str]
) -> str | None:
    if name == creative.name:
        return "a creative cannot start from itself"
    if name not in kinds:
        return f"there is no creative {name!r}; {nearest(name, others)}".removesuffix("; ")
    makes, takes = kinds[name].makes, creative.kind.inputs[place.partition("[")[0]]
    if makes != takes:
        return f"takes {takes}, and creative {name!r} makes {makes}"
    return None


def _circles(creatives: Sequence[Inputs]) -> Iterator[Problem]:
    needs = {creative.name: creative.needs for creative in creatives}
    told: set[str] = set()
    for index, creative in enumerate(creatives):
        circle = _way_back(creative.name, needs)
        if not circle or creative.name in told:
            continue
        told.update(circle)
        place = next(
            place for place, item in creative.references if item.place == [*circle, circle[0]][1]
        )
        way = " needs ".join([*circle, circle[0]])
        yield Problem(f"goes in a circle: {way}", field=f"creatives[{index}].{place}")


def _way_back(start: str, needs: Mapping[str, Sequence[str]]) -> list[str] | None:
    """The creatives on the way from ``start`` to itself; None: there is no such way."""
    ways = [[start]]
    seen = set[str]()
    while ways:
        way = ways.pop()
        for name in needs[way[-1]]:
            if name == start:
                return way
            if name not in seen:
                seen.add(name)
                ways.append([*way, name])
    return None
