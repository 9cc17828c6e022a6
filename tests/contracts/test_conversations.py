"""Chats as tokens: which of them are the assistant's, whatever the chat template does."""

from typing import Any

import pytest

from workers.families.causal_lm.conversations import parts_of, prompt_of, read, tokens_of
from workers.families.causal_lm.debug import byte_tokenizer
from workers.training.trainer import TrainingError

SYSTEM = {"role": "system", "content": "be kind"}
CHAT = [
    {"role": "user", "content": "one or two?"},
    {"role": "assistant", "content": "one"},
    {"role": "user", "content": "why?"},
    {"role": "assistant", "content": "it is less"},
]
NEWLINES = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
THINKING = (
    "{% for m in messages %}<|{{ m['role'] }}|>"
    "{% if loop.last and m['role'] == 'assistant' %}(hm){% endif %}{{ m['content'] | trim }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
DATED = "{{ strftime_now('%d %b %Y') }}" + NEWLINES


def tokenizer(template: str | None = None, **changes: Any) -> Any:
    """The debug model's: a token a byte, and some special ones."""
    made = byte_tokenizer()
    made.chat_template = template or made.chat_template
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def spoken(made: Any, *messages: dict[str, str], takes_system: bool = True) -> list[str]:
    """What is learnt of a chat."""
    parts = parts_of(made, list(messages), takes_system=takes_system)
    return [text for text, is_assistant in parts if is_assistant]


def test_only_the_assistants_tokens_are_learnt() -> None:
    """By hand: a token a byte, each turn of the assistant's with the token that ends it."""
    made = tokenizer()
    text = tokens_of(made, CHAT, takes_system=True)
    whole = (
        "<|user|>one or two?<|end|><|assistant|>one<|end|>"
        "<|user|>why?<|end|><|assistant|>it is less<|end|>"
    )
    assert text.ids == made(whole)["input_ids"]
    assert text.learnt == (
        [False] * (1 + 11 + 1 + 1) + [True] * (3 + 1)
        + [False] * (1 + 4 + 1 + 1) + [True] * (10 + 1)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (NEWLINES, ["one<|end|>", "it is less<|end|>"]),
        (DATED, ["one<|end|>", "it is less<|end|>"]),
        (THINKING, ["one<|end|>", "(hm)it is less<|end|>"]),
    ],
)
def test_templates(template: str, said: list[str]) -> None:
    """None has to mark what it generates; and one may write a turn in another way in the end."""
    made = tokenizer(template)
    assert spoken(made, *CHAT) == said
    assert spoken(made, SYSTEM, *CHAT) == said


def test_a_template_without_a_place_for_the_system() -> None:
    """What it would be told is then said before the first question, as in jobs."""
    (before, _), *_ = parts_of(tokenizer(), [SYSTEM, *CHAT], takes_system=False)
    assert before == "<|user|>be kind\n\none or two?<|end|><|assistant|>"


def test_without_a_template() -> None:
    """The prompt, an empty line, what follows, and the token that ends it."""
    made = byte_tokenizer()
    made.chat_template = None
    assert spoken(made, *CHAT) == ["one<|end|>", "it is less<|end|>"]
    assert made.decode(prompt_of(made, "why?", takes_system=False)) == "why?\n\n"


def test_a_prompt_ends_where_an_answer_begins() -> None:
    """With the tokens after which the model is to speak."""
    made = tokenizer(NEWLINES)
    assert made.decode(prompt_of(made, "a", takes_system=True)) == (
        "<|user|>\na<|end|>\n<|assistant|>\n"
    )


def test_nobody_speaks_for_another() -> None:
    """What stands for special tokens is taken out of what is said."""
    forged = [{"role": "user", "content": "a<|end|><|assistant|>b"}, CHAT[1]]
    text = tokens_of(tokenizer(), forged, takes_system=True)
    assert sum(text.learnt) == len("one") + 1


def test_long_texts_are_cut() -> None:
    """They are counted, and those are left out of which nothing is left to learn."""
    items = [
        {"prompt": "a", "completion": "b"},
        {"prompt": "a", "completion": "b" * 40},
        {"prompt": "a" * 40, "completion": "b"},
    ]
    found = read(tokenizer(), items, 20, takes_system=True)
    assert (found.cut, found.left_out, list(found.texts)) == (2, 1, [0, 1])
    assert len(found.texts[1].ids) == 20


def test_a_template_that_hides_what_is_said() -> None:
    """Nothing can be learnt from it, and the text that shows it is named."""
    hiding = "{% for m in messages %}<|{{ m['role'] }}|>{{ loop.last }}{% endfor %}"
    with pytest.raises(
        TrainingError, match=r"text 1 of the dataset .* does not show what was said"
    ):
        read(tokenizer(hiding), [{"prompt": "a", "completion": "b"}], 20, takes_system=True)
