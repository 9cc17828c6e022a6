"""JSON schemas that an answer must follow: which are taken, and whether an answer follows one."""

import json
from collections.abc import Iterator, Mapping
from itertools import count
from types import MappingProxyType
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, best_match
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

MAX_SCHEMA_CHARS = 20_000

DIALECT = "https://json-schema.org/draft/2020-12/schema"

MAX_FOLLOWED = 10_000
"""References that are followed while one answer is checked: about a second. A few lines of schema
can ask for 2^100."""

_REFUSED: Mapping[str, str] = MappingProxyType(
    {
        # Python's regular expressions may take forever; a tenant's would do so on a worker.
        "pattern": "use enum, minLength or maxLength",
        "patternProperties": "use properties",
        # Each look for an anchor reads the whole schema.
        "$anchor": "use $defs, and #/$defs/NAME as $ref",
        "$dynamicAnchor": "use $defs, and #/$defs/NAME as $ref",
        "$dynamicRef": "use $ref",
        # They follow references on their own, uncounted.
        "unevaluatedItems": "use items",
        "unevaluatedProperties": "use additionalProperties",
    }
)


_NAMED = ("properties", "$defs", "definitions", "dependentSchemas")
"""Keywords whose keys are names."""


def check_schema(schema: Mapping[str, Any]) -> None:
    """ValueError says why ``schema`` is no JSON schema (2020-12) for an answer."""
    try:
        size = len(json.dumps(schema, allow_nan=False))
        if size > MAX_SCHEMA_CHARS:
            raise ValueError(f"has {size} characters; {MAX_SCHEMA_CHARS} are the most")
        Draft202012Validator.check_schema(schema)
        _check_keywords(schema)
    except SchemaError as error:
        raise ValueError(f"is no JSON schema: at {error.json_path}: {error.message}") from error
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error


def _check_keywords(schema: Mapping[str, Any]) -> None:
    resolver = Registry().with_resource("", DRAFT202012.create_resource(schema)).resolver()
    parts = list(_schemas(schema))
    known = set(map(id, parts))
    for part in parts:
        for key, value in part.items():
            if key == "$ref":
                if not str(value).startswith("#"):
                    message = f"{key} {value!r}: only references within the schema are followed"
                    raise ValueError(message)
                try:
                    target = resolver.lookup(str(value)).contents
                except Unresolvable as error:
                    raise ValueError(f"{key} {value!r} leads nowhere") from error
                if not isinstance(target, bool) and id(target) not in known:
                    # Such as a default, in which nothing has been looked at.
                    raise ValueError(f"{key} {value!r} leads to no schema")
            elif key == "$id" or (
                key == "$schema" and (part is not schema or str(value).rstrip("#") != DIALECT)
            ):
                message = f"{key} is not taken: leave it out, a schema is read as 2020-12"
                raise ValueError(message)
            elif key in _REFUSED:
                raise ValueError(f"{key} is not taken: {_REFUSED[key]}")


def read_answer(text: str, schema: Mapping[str, Any]) -> Any:
    """The JSON value in ``text``, which follows ``schema``.

    Raises:
        ValueError: it does not; the message names the schema's rule and quotes no answer.
    """
    try:
        answer = json.loads(text, parse_constant=_refuse)
        json.dumps(answer, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("it holds half of a surrogate pair, which is not text") from error
    except (ValueError, RecursionError) as error:
        raise ValueError("it is no JSON") from error
    try:
        broken = best_match(_validator(schema).iter_errors(answer))
    except Exception as failure:
        raise ValueError(f"the schema cannot be followed: {type(failure).__name__}") from failure
    if broken is not None:
        rule = "/".join(str(part) for part in broken.absolute_schema_path)
        raise ValueError(f"it breaks the schema's rule {rule}")
    return answer


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _validator(schema: Mapping[str, Any]) -> Any:
    """A validator for one answer, which gives up on a schema that has it do too much."""
    followed = count(1)

    def follow(validator: Any, reference: str, answer: Any, part: Any) -> Iterator[Any]:
        if next(followed) > MAX_FOLLOWED:
            raise OverflowError
        yield from Draft202012Validator.VALIDATORS["$ref"](validator, reference, answer, part)

    # Of a schema that names its dialect the library would take its own validator instead.
    plain = {key: value for key, value in schema.items() if key != "$schema"}
    counted: Any = extend(Draft202012Validator, {"$ref": follow})  # type: ignore[no-untyped-call]
    return counted(plain)


def _schemas(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Every schema in it, in whatever depth."""
    if isinstance(schema, list):
        for part in schema:
            yield from _schemas(part)
    if not isinstance(schema, Mapping):
        return
    yield schema
    for key, value in schema.items():
        if key in {"enum", "const", "default", "examples"}:
            continue
        if key in _NAMED and isinstance(value, Mapping):
            for part in value.values():
                yield from _schemas(part)
        else:
            yield from _schemas(value)
