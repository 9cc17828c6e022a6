"""Texts: what a request may hold, what a recipe makes of it, and that recipes are only data."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from pydantic import ValidationError

from jobs.campaigns.creatives import compile_creative, render
from jobs.campaigns.file import CreativeSpec
from jobs.kinds import recipes as package
from jobs.kinds.answers import DIALECT, MAX_SCHEMA_CHARS, check_schema, read_answer
from jobs.kinds.languages import language_name
from jobs.kinds.recipes import Recipe, fill, named, read, recipes
from jobs.kinds.text import TEXT, TextDetails, TextRequest, words_of
from jobs.kinds.values import read_details
from jobs.problems import BadInputError
from storage.models import BUILT_IN, ModelCard

CARD = BUILT_IN["debug-lm"]
PAIR = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def nested(depth: int) -> dict[str, Any]:
    """A schema of arrays of arrays."""
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"not": schema}
    return schema


def resolved(card: ModelCard = CARD, **fields: Any) -> TextRequest:
    """A request as a worker gets it."""
    request = TEXT.resolve(TextRequest(**{"text": "a mug", **fields}), card)
    assert isinstance(request, TextRequest)
    return request


def test_there_is_a_recipe_for_every_promise() -> None:
    """Each has a file, and a free prompt has one too."""
    promised = "headline ad_copy product_description social_post recommendation reply summary"
    assert {*promised.split(), "translation", "sentiment", "quiz", "free"} <= set(recipes())


@pytest.mark.parametrize("recipe", recipes().values(), ids=list(recipes()))
def test_every_recipe_has_an_example_that_works(recipe: Recipe) -> None:
    """It says what it is for, its example is taken, and no value is left unnamed."""
    assert recipe.summary.endswith(".")
    request = resolved(recipe=recipe.name, **recipe.example)
    values = dict.fromkeys(named(recipe.user), "x") | {"text": request.text}
    assert request.text in fill(recipe.user, values)
    assert "{" not in fill(recipe.user, values)
    assert resolved(**request.model_dump()) == request


def test_a_new_recipe_is_one_file(tmp_path: Path) -> None:
    """Its name is the file's; a value that does not exist is refused with those that do."""
    file = tmp_path / "slogan.yaml"
    data = {"summary": "A.", "system": "S", "user": "{text}", "example": {"text": "a"}}
    file.write_text(yaml.safe_dump(data))
    assert read(file).name == "slogan"
    file.write_text(yaml.safe_dump({**data, "user": "{text} {colour}"}))
    with pytest.raises(ValidationError, match="names colour; there are: audience, choices"):
        read(file)
    assert {path.stem for path in Path(package.__file__).parent.glob("*.yaml")} == set(recipes())


def test_values_are_no_templates() -> None:
    """What a recipient's row holds comes out as it is; a line without its value is left out."""
    values = {"text": "{tone} {0} {{ x }} %s \\1", "tone": "warm", "details": ""}
    assert fill("About {text}\nFacts: {details}\nTone: {tone}", values) == (
        "About {tone} {0} {{ x }} %s \\1\nTone: warm"
    )


def test_what_is_left_out_comes_from_the_recipe() -> None:
    """Tone, length, temperature and the limit in tokens; what is given stays."""
    request = resolved(recipe="headline")
    assert (request.tone, request.length, request.temperature) == ("lively", "medium", 0.4)
    assert request.max_tokens == 4 * 8 + 24
    request = resolved(recipe="headline", tone="", length=3, temperature=0, max_tokens=9)
    assert (request.tone, request.length, request.temperature, request.max_tokens) == ("", 3, 0, 9)
    assert resolved(recipe="sentiment").choices == ("positive", "neutral", "negative")
    assert [words_of(recipes()["summary"], n) for n in ("short", 7, None)] == [25, 7, None]


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"recipe": "translation"}, "language", "is required for the recipe 'translation'"),
        ({"recipe": "sentiment", "tone": "x"}, "tone", "'sentiment' has no use for it"),
        ({"recipe": "sentiment", "stop": ["x"]}, "stop", "'sentiment' has no use for it"),
        ({"recipe": "headline", "choices": ["a", "b"]}, "choices", "has no use for it"),
        ({"recipe": "quiz", "length": "short"}, "length", "has no use for it"),
        ({"max_tokens": 1025}, "max_tokens", "model 'debug-lm' writes at most 1024 tokens"),
    ],
)
def test_what_a_recipe_or_a_model_cannot_do(
    fields: dict[str, Any], field: str, message: str
) -> None:
    """The field is named, and what to do."""
    with pytest.raises(BadInputError, match=message) as caught:
        resolved(**fields)
    assert [problem.field for problem in caught.value.problems] == [field]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"recipe": "headlines"}, "recipe"),
        ({"text": ""}, "text"),
        ({"text": "a\0"}, "text"),
        ({"length": "huge"}, "length"),
        ({"length": True}, "length"),
        ({"length": 2001}, "length"),
        ({"language": ""}, "language"),
        ({"choices": ["a"]}, "choices"),
        ({"choices": ["a", "A "]}, "choices"),
        ({"stop": ["a"] * 9}, "stop"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"tries": 11}, "tries"),
        ({"adapters": [{"name": "a"}, {"name": "b"}]}, "adapters"),
        ({"json_schema": {"type": "thing"}}, "json_schema"),
        ({"prompt": "x"}, "prompt"),
    ],
)
def test_requests_that_are_none(fields: dict[str, Any], field: str) -> None:
    """Each field has its limits, and one mistake is one problem."""
    with pytest.raises(ValidationError) as caught:
        TextRequest(**{"text": "a mug", **fields})
    assert [error["loc"] for error in caught.value.errors()] == [(field,)]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "thing"}, "is no JSON schema: at "),
        ({"$ref": "https://example.com/s.json"}, "only references within the schema"),
        ({"properties": {"a": {"$ref": "#/$defs/b"}}}, "leads nowhere"),
        ({"items": {"pattern": "(a+)+$"}}, "pattern is not taken"),
        ({"$ref": "#/default", "default": {"pattern": "(a+)+$"}}, "leads to no schema"),
        ({"$anchor": "a", "$ref": "#a"}, "anchor is not taken"),
        ({"$defs": {"a": {"$schema": DIALECT}}}, "is read as 2020-12"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "is read as 2020-12"),
        ({"enum": ["x" * MAX_SCHEMA_CHARS]}, "characters; 20000 are the most"),
        ({"const": float("nan")}, "not JSON compliant"),
        ({"x": {"$ref": 5}}, "only references within the schema"),
        (nested(1500), "is nested too deeply"),
    ],
)
def test_schemas_that_are_none(schema: dict[str, Any], message: str) -> None:
    """Nothing is fetched, nothing may take forever, and a mistake is told at once."""
    with pytest.raises(ValueError, match=message):
        check_schema(schema)


def test_schemas_that_are_taken() -> None:
    """Names of properties and values are no keywords; local references are followed."""
    check_schema({"properties": {"pattern": {"const": {"$id": "x"}}}})
    check_schema({"$defs": {"b": {"type": "string"}}, "items": {"$ref": "#/$defs/b"}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("secret", "it is no JSON"),
        ('{"a": NaN}', "it is no JSON"),
        ('{"a": 1e999}', "it is no JSON"),
        ('{"a": 1, "b": "\\ud800"}', "half of a surrogate pair"),
        ('{"a": "secret"}', "it breaks the schema's rule properties/a/type$"),
        ("{}", "it breaks the schema's rule required$"),
    ],
)
def test_answers_that_break_a_schema(text: str, message: str) -> None:
    """The rule is named; the answer, which may be personal, is not quoted."""
    with pytest.raises(ValueError, match=message) as caught:
        read_answer(text, PAIR)
    assert "secret" not in str(caught.value)


def test_an_answer_that_follows_its_schema() -> None:
    """It comes back as a value; a schema that turns in a circle is an error, not a crash."""
    assert read_answer('{"a": 1}', PAIR) == {"a": 1}
    with pytest.raises(ValueError, match="the schema cannot be followed"):
        read_answer("1", {"$ref": "#"})


def test_a_schema_that_asks_for_too_much() -> None:
    """References that double at each of 60 levels are given up, with the dialect named too."""
    levels = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(60)}
    schema = {"$schema": DIALECT, "$defs": {**levels, "a60": {}}, "$ref": "#/$defs/a0"}
    check_schema(schema)
    with pytest.raises(ValueError, match="cannot be followed: OverflowError"):
        read_answer("1", schema)


def test_models_that_know_some_recipes_only() -> None:
    """A card may say what its model is given; other recipes and wrong cards are refused."""
    card = replace(CARD, name="t", details={"prompts": {"summary": "summarize: {text}"}})
    assert resolved(card, recipe="summary").recipe == "summary"
    with pytest.raises(BadInputError, match=r"^recipe: model 't' knows only summary$"):
        resolved(card, recipe="headline")
    for details in ({"prompts": {"x": "{text}"}}, {"prompts": {"free": "{y}"}}, {"size": 1}):
        with pytest.raises(BadInputError, match=r"^model: the card of model 'debug-lm' is wrong: "):
            read_details(replace(CARD, details=details), TextDetails)


def test_texts_of_a_campaign() -> None:
    """A recipient's language and product are put in; a row that lacks one is told of."""
    fields = {"recipe": "translation", "text": "{{ product }}", "language": "{{ language }}"}
    spec = CreativeSpec.model_validate({"name": "t", "kind": "text", **fields})
    creative = compile_creative(spec, TEXT, CARD).creative
    row = {"product": "{{ mug }}", "language": "de"}
    request = render(creative, row, "r", uuid4())
    assert isinstance(request, TextRequest)
    assert (request.text, request.language, request.max_tokens) == ("{{ mug }}", "de", 512)
    with pytest.raises(BadInputError, match=r"^t\.language: after rendering: "):
        render(creative, {**row, "language": ""}, "r", uuid4())


def test_what_shares_a_batch() -> None:
    """Rows are their own in everything, but writing and choosing are different calls."""

    def key(**fields: Any) -> str:
        return TEXT.batch_key(resolved(**fields), CARD)

    one = key()
    assert key(recipe="quiz", temperature=1, max_tokens=5, stop=["x"], json_schema=PAIR) == one
    assert key(recipe="sentiment") != one


def test_a_voice() -> None:
    """An adapter and its weight are the whole batch's, which no bank makes the same for others."""
    card = ModelCard(
        name="voice",
        family="causal_lm",
        kind="adapter",
        source="dir:/voice",
        licence="MIT",
        base=CARD.name,
        details={"bank": False},
    )
    uses = [[{"name": "voice", "weight": weight}] for weight in (1, 0.5)]
    fields = {"name": "t", "kind": "text", "text": "{{ product }}"}
    keys = []
    for each in uses:
        spec = CreativeSpec.model_validate({**fields, "adapters": each})
        compiled = compile_creative(spec, TEXT, CARD, [card])
        request = render(compiled.creative, {"product": "a mug"}, "r", uuid4())
        assert [use.model_dump() for use in request.uses] == each
        keys.append(compiled.batch_key)
        assert TEXT.batch_key(resolved(adapters=each), CARD, [card]) == compiled.batch_key
    assert len({*keys, TEXT.batch_key(resolved(), CARD)}) == 3
    # Workers of the release before refuse what they do not know.
    assert "adapters" not in resolved().model_dump()


@pytest.mark.parametrize(
    ("language", "name"),
    [("de", "German"), ("pt-BR", "Portuguese (pt-BR)"), ("Low German", "Low German")],
)
def test_languages(language: str, name: str) -> None:
    """A tag becomes a name that a model knows; a name stays."""
    assert language_name(language) == name
