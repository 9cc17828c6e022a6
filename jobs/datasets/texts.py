"""Datasets of text: chats or pairs, a JSON object a line."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from jobs.datasets import duplicates, lines
from jobs.datasets.checked import Checked, manifest_of, refuse, trigger_warnings
from jobs.datasets.definition import ContentSpec
from jobs.kinds.values import Stored
from jobs.problems import Problem, from_validation
from jobs.registry.trees import Tree

MIN_TEXTS = 10
"""Fewer are better put into the prompt."""
MAX_TEXTS = 100_000


def _filled(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


Content = Annotated[str, Stored, AfterValidator(_filled)]


class Message(BaseModel):
    """One turn of a chat."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: Content


class Chat(BaseModel):
    """A chat, as chat templates take it: what the assistant says is what is learnt."""

    model_config = ConfigDict(extra="forbid")

    messages: Annotated[list[Message], Field(min_length=2)]

    @model_validator(mode="after")
    def _check_turns(self) -> Self:
        turns = [message.role for message in self.messages]
        if turns[0] == "system":
            turns = turns[1:]
        if turns != (["user", "assistant"] * len(turns))[: len(turns)] or len(turns) % 2:
            raise ValueError(
                "after an optional `system` the roles must be `user` and `assistant` in turns, the "
                "last one `assistant`"
            )
        return self

    @property
    def text(self) -> str:
        """All that is said."""
        return "\n".join(message.content for message in self.messages)


class Pair(BaseModel):
    """A prompt and what is to be written for it."""

    model_config = ConfigDict(extra="forbid")

    prompt: Content
    completion: Content

    @property
    def text(self) -> str:
        """Both."""
        return f"{self.prompt}\n{self.completion}"


def check(tree: Tree, spec: ContentSpec) -> Checked:
    """What is in the one file of ``tree``.

    Raises:
        BadInputError: all that is wrong, each with its line.
    """
    problems: list[Problem] = []
    ((name, file),) = tree.files.items()
    if spec.caption:
        problems.append(Problem("is for pictures", field="caption"))
    numbers, items = _read(file, name, problems)
    if not problems and not MIN_TEXTS <= len(items) <= MAX_TEXTS:
        message = f"has {len(items)} texts; {MIN_TEXTS} to {MAX_TEXTS} can be taken"
        problems.append(Problem(message, name))
    exact = list(_exact(name, numbers, items))
    refuse(problems if spec.allow_duplicates else [*problems, *exact])
    texts = [item.text for item in items]
    return Checked(
        kind="text",
        count=len(items),
        manifest=manifest_of(item.model_dump() for item in items),
        warnings=(*exact, *trigger_warnings(spec.trigger, texts, "texts")),
    )


def _read(file: Path, name: str, problems: list[Problem]) -> tuple[list[int], list[Chat | Pair]]:
    """The lines' numbers and items: all are what the first line is."""
    form: type[Chat | Pair] | None = None
    numbers: list[int] = []
    items: list[Chat | Pair] = []
    for number, given in lines.read(file, name, problems):
        if form is None:
            form = Chat if "messages" in given else Pair
        if ("messages" in given) != (form is Chat):
            other, first = ("pair", "chat") if form is Chat else ("chat", "pair")
            message = f"is a {other}, and the first line is a {first}: a dataset has one of them"
            problems.append(Problem(message, name, number))
            continue
        try:
            items.append(form.model_validate(given, strict=True))
        except ValidationError as error:
            found = from_validation(error, form)
            problems += [replace(problem, file=name, line=number) for problem in found]
        else:
            numbers.append(number)
        if len(items) > MAX_TEXTS:
            break
    return numbers, items


def _exact(name: str, numbers: Sequence[int], items: Sequence[Chat | Pair]) -> Iterator[Problem]:
    for first, again in duplicates.same([item.model_dump_json() for item in items]):
        yield Problem(f"is the same as line {numbers[first]}", name, numbers[again])
