"""A dataset's chats and pairs as tokens, and which of them are learnt: what the assistant says.

A text is cut where the assistant begins and ends, and each part is tokenized by itself: so what is
learnt begins where an answer begins when the model is used, after the tokens of its prompt.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from workers.families.causal_lm.prompts import defused, special_texts
from workers.training.trainer import TrainingError

Message = Mapping[str, str]
Part = tuple[str, bool]
"""Some characters, and whether they are the assistant's."""

_ANY_DAY = "{% macro strftime_now(format) %}01 May 2026{% endmacro %}"
"""Before a template, that may name today's date: or no training could be done again another day."""
_LOOK_EVERY = 256


@dataclass(frozen=True)
class Text:
    """Tokens, and of each whether it is learnt: the last ones always are."""

    ids: list[int]
    learnt: list[bool]


@dataclass(frozen=True)
class Texts:
    """A dataset's texts, by the numbers of its items; what was cut, and what was left out for it.

    Left out are those of which nothing that is learnt was left.
    """

    texts: Mapping[int, Text]
    cut: int
    left_out: int


def read(
    tokenizer: Any,
    items: Sequence[Mapping[str, Any]],
    max_tokens: int,
    *,
    takes_system: bool,
    look: Callable[[], None] = lambda: None,
) -> Texts:
    """The items of a dataset of text, cut at ``max_tokens``.

    Raises:
        TrainingError: the tokenizer's chat template does not take one of them.
    """
    texts: dict[int, Text] = {}
    cut = left_out = 0
    for number, item in enumerate(items):
        if number % _LOOK_EVERY == 0:
            look()
        try:
            whole = tokens_of(tokenizer, messages_of(item), takes_system=takes_system)
        except (TemplateError, ValueError) as error:
            raise TrainingError(
                f"text {number + 1} of the dataset cannot be written as the model's chats are: "
                f"{str(error)[:200]}"
            ) from error
        text = Text(whole.ids[:max_tokens], whole.learnt[:max_tokens])
        cut += len(text.ids) < len(whole.ids)
        if any(text.learnt[1:]):
            texts[number] = text
        else:
            left_out += 1
    return Texts(texts, cut, left_out)


def messages_of(item: Mapping[str, Any]) -> list[Message]:
    """A line of a dataset as a chat: a pair is one of a single question."""
    if "messages" in item:
        return list(item["messages"])
    return [
        {"role": "user", "content": item["prompt"]},
        {"role": "assistant", "content": item["completion"]},
    ]


def tokens_of(tokenizer: Any, messages: Sequence[Message], *, takes_system: bool) -> Text:
    """A chat's tokens.

    Raises:
        ValueError: the template changes what the assistant says beyond recognition.
        TemplateError: it does not take such a chat.
    """
    ids: list[int] = []
    learnt: list[bool] = []
    safe = [{**one, "content": defused(tokenizer, one["content"])} for one in messages]
    for text, is_assistant in parts_of(tokenizer, safe, takes_system=takes_system):
        # Without a template, what begins a text is the tokenizer's to say.
        special = not ids and not tokenizer.chat_template
        more = tokenizer(text, add_special_tokens=special)["input_ids"]
        ids += more
        learnt += [is_assistant] * len(more)
    return Text(ids, learnt)


def prompt_of(tokenizer: Any, prompt: str, *, takes_system: bool) -> list[int]:
    """The tokens of a question, up to where the assistant begins."""
    question = [{"role": "user", "content": prompt}, {"role": "assistant", "content": "x"}]
    text = tokens_of(tokenizer, question, takes_system=takes_system)
    return text.ids[: text.learnt.index(True)]


def parts_of(tokenizer: Any, messages: Sequence[Message], *, takes_system: bool) -> list[Part]:
    """The characters of a chat in parts, up to the end of the assistant's last turn.

    A turn is learnt with the token that ends it. Where it is comes from rendering the chat up to
    it and with it; where that is not how the whole begins, since some templates write a turn in
    another way once others follow, from what it says.
    """
    if not tokenizer.chat_template:
        ending = tokenizer.eos_token or ""
        return [
            (one["content"] + ending, True)
            if one["role"] == "assistant"
            else (one["content"] + "\n\n", False)
            for one in messages
        ]
    if messages[0]["role"] == "system" and not takes_system:
        system, first, *rest = messages
        joined = f"{system['content']}\n\n{first['content']}"
        messages = [{"role": first["role"], "content": joined}, *rest]
    whole = _rendered(tokenizer, messages)
    ends = {token for token in special_texts(tokenizer) if token.strip()}
    found: list[Part] = []
    done = 0
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _rendered(tokenizer, messages[:index], add_generation_prompt=True)
        after = _rendered(tokenizer, messages[: index + 1])
        if whole.startswith(before) and whole.startswith(after) and len(before) < len(after):
            start, end = len(before), len(after)
        else:
            start, end = _place(whole, done, messages[: index + 1], ends)
        spoken = whole[start:end].rstrip()
        if any(spoken.endswith(token) for token in ends):
            end = start + len(spoken)  # what follows the end is the template's
        found += [(whole[done:start], False), (whole[start:end], True)]
        done = end
    return found


def _place(whole: str, done: int, messages: Sequence[Message], ends: set[str]) -> tuple[int, int]:
    """Where the last of ``messages`` stands behind ``done``, with the token that ends it."""
    turns = [index for index, one in enumerate(messages[:-1]) if one["role"] == "assistant"]
    start = end = done
    for message in messages[turns[-1] + 1 if turns else 0 :]:
        says = message["content"].strip()
        start = whole.find(says, end)
        if start < 0:
            raise ValueError(
                "its template does not show what was said, so what the assistant says cannot be "
                "told from the rest"
            )
        end = start + len(says)
    following = [token for token in ends if whole.startswith(token, end)]
    return start, end + max(map(len, following), default=0)


def _rendered(tokenizer: Any, messages: Sequence[Message], **options: Any) -> str:
    template = _ANY_DAY + tokenizer.get_chat_template()
    text: str = tokenizer.apply_chat_template(
        list(messages), chat_template=template, tokenize=False, **options
    )
    return text
