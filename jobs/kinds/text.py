"""The ``text`` kind: words from a prompt recipe, such as a headline, a reply or a summary."""

from operator import not_
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from jobs.kinds.answers import check_schema
from jobs.kinds.kind import Kind, KindRequest
from jobs.kinds.recipes import OPTIONAL, Recipe, check_template, recipes
from jobs.kinds.values import AdapterUse, ModelName, Seed, Stored, check_makes, read_details
from jobs.problems import BadInputError, Problem, nearest
from storage.models import ModelCard

MAX_WORDS = 2000
MAX_TOKENS = 8192

Short = Annotated[str, Field(max_length=200), Stored]
Phrase = Annotated[str, Field(min_length=1, max_length=100), Stored]


class Turn(BaseModel):
    """What one side has said in a conversation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["customer", "agent"]
    text: Annotated[str, Field(min_length=1, max_length=8000), Stored]


class TextRequest(KindRequest):
    """One text. What is left out is taken from the recipe."""

    recipe: Annotated[
        str, Field(description="What sort of text: headline, summary, reply, ...; free: a prompt.")
    ] = "free"
    text: Annotated[
        str,
        Field(
            min_length=1,
            max_length=20_000,
            description="What it is about: a product, a text to summarise, a customer's message.",
        ),
        Stored,
    ]
    details: Annotated[str, Field(max_length=20_000, description="Facts to use."), Stored] = ""
    audience: Annotated[Short, Field(description="Whom it is for.")] = ""
    language: Annotated[
        Short | None,
        Field(
            min_length=1,
            description="To be written in: a BCP 47 tag or a name.",
            examples=["de", "Brazilian Portuguese"],
        ),
    ] = None
    tone: Annotated[Short | None, Field(description="How it sounds, in a few words.")] = None
    length: Annotated[
        Literal["short", "medium", "long"] | int | None,
        Field(description=f"short, medium, long, or a number of words up to {MAX_WORDS}."),
    ] = None
    conversation: Annotated[
        tuple[Turn, ...], Field(max_length=50, description="What was said before, oldest first.")
    ] = ()
    choices: Annotated[
        tuple[Phrase, ...],
        Field(max_length=50, description="The labels to choose from, for recipes that choose."),
    ] = ()
    json_schema: Annotated[
        dict[str, Any] | None,
        Field(description="A JSON schema (2020-12): the answer is JSON that follows it."),
    ] = None
    stop: Annotated[
        tuple[Phrase, ...], Field(max_length=8, description="The text ends before any of these.")
    ] = ()
    model: ModelName = "smollm2"
    # Said only where there are some, since workers of the release before know none.
    adapters: Annotated[
        tuple[AdapterUse, ...],
        Field(
            max_length=1,
            exclude_if=not_,
            description="A LoRA on top of the model, such as for a brand's voice.",
        ),
    ] = ()
    temperature: Annotated[
        float | None,
        Field(ge=0, le=2, allow_inf_nan=False, description="0: always the likeliest token."),
    ] = None
    top_p: Annotated[
        float | None,
        Field(gt=0, le=1, allow_inf_nan=False, description="Share of probability to draw from."),
    ] = None
    top_k: Annotated[int | None, Field(ge=1, description="How many tokens to draw from.")] = None
    max_tokens: Annotated[
        int | None, Field(ge=1, le=MAX_TOKENS, description="The most that the answer may have.")
    ] = None
    tries: Annotated[
        int, Field(ge=1, le=10, description="How often to ask for an answer that is of use.")
    ] = 3
    seed: Seed = None

    @property
    def uses(self) -> tuple[AdapterUse, ...]:
        """The adapter on top of the model, if any."""
        return self.adapters

    @field_validator("recipe")
    @classmethod
    def _check_recipe(cls, name: str) -> str:
        if name not in recipes():
            raise ValueError(f"unknown recipe {name!r}; {nearest(name, list(recipes()))}")
        return name

    @field_validator("length", mode="before")
    @classmethod
    def _check_length(cls, length: object) -> object:
        # Not left to the union: it would report one error per alternative and take true for 1.
        if length is None or length in ("short", "medium", "long"):
            return length
        if isinstance(length, int) and not isinstance(length, bool) and 1 <= length <= MAX_WORDS:
            return length
        raise ValueError(f"must be short, medium, long, or words from 1 to {MAX_WORDS}")

    @field_validator("choices")
    @classmethod
    def _check_choices(cls, choices: tuple[str, ...]) -> tuple[str, ...]:
        if choices and len({choice.strip().lower() for choice in choices} - {""}) != len(choices):
            raise ValueError("must differ from each other, and none may be blank")
        if len(choices) == 1:
            raise ValueError("must be two or more")
        return choices

    @field_validator("json_schema")
    @classmethod
    def _check_json_schema(cls, schema: dict[str, Any] | None) -> dict[str, Any] | None:
        if schema is not None:
            check_schema(schema)
        return schema


class TextDetails(BaseModel):
    """What the card of a text model says beside the rest.

    ``prompts`` are for models that follow no instructions: what they are given for each recipe
    that they can do, such as ``"summarize: {text}"``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] = 1024
    prompts: dict[str, str] = {}
    sha256: dict[str, str] = {}
    """Of files that come in a package."""

    @field_validator("prompts")
    @classmethod
    def _check_prompts(cls, prompts: dict[str, str]) -> dict[str, str]:
        for name, prompt in prompts.items():
            if name not in recipes():
                raise ValueError(f"unknown recipe {name!r}; {nearest(name, list(recipes()))}")
            check_template(prompt)
        return prompts


def resolve(request: TextRequest, card: ModelCard) -> TextRequest:
    """The request with what its recipe says filled in.

    Raises:
        BadInputError: the recipe needs more or has no place for a field, or the model does not
            know the recipe or does not write that much.
    """
    check_makes(card, TEXT.name)
    details = read_details(card, TextDetails)
    recipe = recipes()[request.recipe]
    if details.prompts and request.recipe not in details.prompts:
        known = ", ".join(sorted(details.prompts))
        raise _problem("recipe", f"model {card.name!r} knows only {known}")
    _check_fields(request, recipe)
    if recipe.labels:
        return request.model_copy(update={"choices": request.choices or recipe.labels})
    if request.max_tokens is not None and request.max_tokens > details.max_tokens:
        message = f"model {card.name!r} writes at most {details.max_tokens} tokens"
        raise _problem("max_tokens", message)
    length = request.length or ("medium" if recipe.words else None)
    filled = {
        "tone": recipe.tone if request.tone is None else request.tone,
        "length": length,
        "temperature": recipe.temperature if request.temperature is None else request.temperature,
        "top_p": request.top_p or recipe.top_p,
        "max_tokens": request.max_tokens
        or min(_max_tokens(request, recipe, length), details.max_tokens),
    }
    return request.model_copy(update=filled)


def _check_fields(request: TextRequest, recipe: Recipe) -> None:
    for needed in recipe.needs:
        if not getattr(request, needed):
            raise _problem(needed, f"is required for the recipe {recipe.name!r}")
    refused = [name for name in OPTIONAL if name not in recipe.takes]
    if recipe.labels:
        refused += ["json_schema", "stop", "temperature", "top_p", "top_k", "max_tokens"]
    else:
        refused.append("choices")
    for name in refused:
        if getattr(request, name) not in (None, "", ()):
            raise _problem(name, f"the recipe {recipe.name!r} has no use for it; leave it out")


def words_of(recipe: Recipe, length: str | int | None) -> int | None:
    """The words that a length stands for."""
    if isinstance(length, int) or length is None:
        return length
    # A recipe without lengths of its own takes those of a paragraph.
    words: dict[Any, int] = {"short": 25, "medium": 60, "long": 150, **recipe.words}
    return words[length]


def _max_tokens(request: TextRequest, recipe: Recipe, length: str | int | None) -> int:
    """Enough for the words, in languages too that take several tokens for one, and in JSON."""
    words = words_of(recipe, length)
    tokens = recipe.max_tokens if words is None else 4 * words + 24
    return max(tokens, 512) if request.json_schema else tokens


def batch_facts(request: TextRequest) -> dict[str, Any]:
    """Whether it writes or chooses a label, and with which adapter: these are different calls.

    All else is each row's own: rows have different prompts, temperatures, limits and schemas, and
    one that is done waits for the others at no cost but its place.
    """
    facts: dict[str, Any] = {"answer": "label" if recipes()[request.recipe].labels else "text"}
    if request.adapters:
        facts["adapters"] = [[use.name, use.weight] for use in request.adapters]
    return facts


def _problem(field: str, message: str) -> BadInputError:
    return BadInputError(Problem(message, field=field))


TEXT = Kind(
    name="text",
    summary="A text from a prompt recipe: a headline, a summary, a reply, a label, JSON.",
    makes="text",
    Request=TextRequest,
    templates=frozenset({"text", "details", "audience", "language", "tone"}),
    default_model="smollm2",
    example={
        "recipe": "headline",
        "text": "a red apple from the orchard next door",
        "tone": "lively",
        "length": "short",
        "model": "smollm2",
        "temperature": 0.4,
        "top_p": 0.9,
        "max_tokens": 24,
        "seed": 7,
    },
    resolve=resolve,
    batch_facts=batch_facts,
)
