"""Liquid templates over a recipient's columns: bounded, strict, and never fed from data."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from liquid import BoundTemplate, Environment, RenderContext
from liquid.ast import Node
from liquid.builtin.expressions import FilteredExpression
from liquid.exceptions import LiquidError, ResourceLimitError, UndefinedError
from liquid.expression import Expression
from liquid.filter import with_context
from liquid.span import Span
from liquid.token import Token
from liquid.undefined import StrictDefaultUndefined, Undefined

from jobs.kinds.values import check_storable
from jobs.problems import BadInputError, Problem, nearest

MAX_SOURCE_CHARS = 20_000
MAX_OUTPUT_BYTES = 64 * 1024
MAX_LOCALS_BYTES = 1024 * 1024
MAX_LOOP_ITERATIONS = 1_000
MAX_NESTING = 20
MAX_FILTER_COST = 10_000_000
"""Per render: the sum over its filters of the input's size times the longest argument's."""

# Filters let the errors of Python through, for example an OverflowError from `date`.
_RENDER_ERRORS = (LiquidError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError)


@dataclass(frozen=True)
class Template:
    """A parsed template.

    A column is written ``{{ product }}``; one whose name is not a plain word is written
    ``{{ ["First Name"] }}``.
    """

    source: str
    columns: frozenset[str]
    """Every column named in the source, in whichever branch."""
    required: frozenset[str]
    """Those of ``columns`` that are used somewhere without the ``default`` filter."""
    compiled: BoundTemplate = field(repr=False, compare=False)

    @property
    def is_literal(self) -> bool:
        """It comes out as it is written, whatever the row says."""
        return "{{" not in self.source and "{%" not in self.source


def parse(source: str) -> Template:
    """Parse ``source``; a tag that would load another template is refused as unknown.

    Raises:
        BadInputError: names what is wrong and where in the template.
    """
    if len(source) > MAX_SOURCE_CHARS:
        raise _refused(f"a template has at most {MAX_SOURCE_CHARS} characters, not {len(source)}")
    try:
        check_storable(source)
        compiled = _environment().from_string(source)
    except LiquidError as error:
        raise _refused(_describe(error, source)) from error
    except ValueError as error:
        raise _refused(str(error)) from error
    analysis = compiled.analyze(include_partials=False)
    _check_filters(analysis.filters, source)
    defaulted = set(_defaulted_in(compiled.nodes))
    columns, required = set(), set()
    for variables in analysis.globals.values():
        for variable in variables:
            column = variable.segments[0]
            if not isinstance(column, str):  # {{ [other] }}: which column, only the row tells
                continue
            columns.add(column)
            if variable.span.index not in defaulted:
                required.add(column)
    return Template(source, frozenset(columns), frozenset(required), compiled)


def render(template: Template, row: Mapping[str, Any]) -> str:
    """The text for one recipient; values come out verbatim, whatever they look like.

    Raises:
        BadInputError: a column is missing, a filter cannot take its value, or a limit is reached.
    """
    try:
        text: str = template.compiled.render(row)
    except _RENDER_ERRORS as error:
        raise _refused(_describe(error, template.source)) from error
    return text


@functools.cache
def _environment() -> Environment:
    environment = Environment(undefined=_missing)
    for tag in ("include", "render"):
        del environment.tags[tag]
    environment.block_nesting_limit = MAX_NESTING
    environment.loop_iteration_limit = MAX_LOOP_ITERATIONS
    environment.local_namespace_limit = MAX_LOCALS_BYTES
    environment.output_stream_limit = MAX_OUTPUT_BYTES
    for name, function in environment.filters.items():
        environment.filters[name] = _metered(function)
    return environment


def _missing(
    name: str, *, token: Token | None, hint: str | None = None, **_: object
) -> StrictDefaultUndefined:
    """What python-liquid puts in place of a value that the row does not have."""
    if hint is None or hint == f"{name!r} is undefined":
        message = f"column {name!r} is missing"
    else:
        message = f"column {name!r}: {hint}"
    return StrictDefaultUndefined(name, token=token, hint=message)


def _metered(function: Callable[..., object]) -> Callable[..., object]:
    """``function`` within `MAX_FILTER_COST`.

    The output limit comes too late: ``replace`` and ``join`` multiply sizes, so five of them in
    a row outgrow any memory before a character is written.
    """

    # wraps() also copies the marks by which python-liquid knows what else a filter is passed.
    @functools.wraps(function)
    def metered(
        left: object, *arguments: object, context: RenderContext, **named: object
    ) -> object:
        longest = max((_size(argument) for argument in arguments), default=1)
        state = context.tag_namespace
        state["filter_cost"] = state.get("filter_cost", 0) + _size(left) * max(longest, 1)
        if state["filter_cost"] > MAX_FILTER_COST:
            raise ResourceLimitError("its filters work on too much text", token=None)
        return function(left, *arguments, **named)

    marked: Callable[..., object] = with_context(metered)
    return marked


def _size(value: object) -> int:
    """Characters in text, elements and all they hold in a list, bytes in a number."""
    size = 1
    if issubclass(type(value), Undefined):  # not isinstance: a strict one raises even at that
        size = 0
    elif isinstance(value, str):
        size = len(value)
    elif isinstance(value, range):  # not len(), which overflows
        size = value.stop - value.start
    elif isinstance(value, int):
        size = value.bit_length() // 8
    elif isinstance(value, Mapping):
        size = sum(1 + _size(item) for item in value.values())
    elif isinstance(value, Sequence):
        size = sum(1 + _size(item) for item in value)
    return size


def _check_filters(used: Mapping[str, list[Span]], source: str) -> None:
    """python-liquid finds an unknown filter only when it renders; the author is told now."""
    known = list(_environment().filters)
    for name, spans in used.items():
        if name not in known:
            place = _place(source, spans[0].index)
            raise _refused(f"{place}unknown filter {name!r}; {nearest(name, known)}")


def _defaulted_in(nodes: Iterable[Node]) -> Iterator[int]:
    """Positions of the variables whose absence a ``default`` filter makes good."""
    for node in nodes:
        for expression in node.expressions():
            yield from _defaulted(expression)
        yield from _defaulted_in(node.children(None, include_partials=False))


def _defaulted(expression: Expression) -> Iterator[int]:
    if isinstance(expression, FilteredExpression):
        # What may be the value at this point of the chain: in `a | default: b | default: "c"`
        # first a, then b.
        candidates = [expression.left]
        for filter_ in expression.filters or ():
            if filter_.name != "default":
                break
            yield from (candidate.token.start_index for candidate in candidates)
            candidates = [argument.value for argument in filter_.args]
    for child in expression.children():
        yield from _defaulted(child)


def _refused(message: str) -> BadInputError:
    return BadInputError(Problem(message))


def _describe(error: Exception, source: str) -> str:
    if not isinstance(error, LiquidError):
        return f"a filter cannot take this value: {error}"
    message = str(error.message)
    if isinstance(error, UndefinedError):  # it names the column, which is place enough
        return message
    if isinstance(error, ResourceLimitError):
        message = f"the template does too much: {message}"
    return _place(source, error.token.start_index if error.token else -1) + message


def _place(source: str, index: int) -> str:
    """Where in a template, as a prefix; python-liquid says -1 for the end of an expression."""
    if index < 0:
        return ""
    line = source.count("\n", 0, index) + 1
    character = index - source.rfind("\n", 0, index)
    return f"template line {line}, character {character}: "
