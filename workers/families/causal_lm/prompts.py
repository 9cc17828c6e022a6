"""From a request to the tokens that a model is given."""

import json
from collections.abc import Mapping
from typing import Any

from jobs.kinds.languages import language_name
from jobs.kinds.recipes import fill, recipes
from jobs.kinds.text import TextRequest, words_of
from workers.families.causal_lm.load import Loaded


def encode(model: Loaded, request: TextRequest) -> list[int]:
    """The prompt's token ids: by the model's chat template, or as plain text without one.

    What the request says cannot speak as the system or end its turn: the texts that stand for
    special tokens are taken out of it.
    """
    recipe = recipes()[request.recipe]
    values = _values(model, request)
    own = model.details.prompts.get(request.recipe)
    if own is not None:
        return _ids(model, fill(own, values), special=True)
    system, user = fill(recipe.system, values), fill(recipe.user, values)
    begin = "" if schema_of(request) else recipe.begin
    if not model.tokenizer.chat_template:
        return _ids(model, f"{system}\n\n{user}\n\n{begin}", special=True)
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    if not model.takes_system:
        messages = [{"role": "user", "content": f"{system}\n\n{user}"}]
    text = model.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return _ids(model, text + begin, special=False)


def schema_of(request: TextRequest) -> Mapping[str, Any] | None:
    """The JSON schema that the answer must follow, if any."""
    return request.json_schema or recipes()[request.recipe].json_schema


def _ids(model: Loaded, text: str, *, special: bool) -> list[int]:
    ids: list[int] = model.tokenizer(text, add_special_tokens=special)["input_ids"]
    return ids


def _values(model: Loaded, request: TextRequest) -> dict[str, str]:
    words = words_of(recipes()[request.recipe], request.length)
    schema = schema_of(request)
    values = {
        "text": request.text,
        "details": request.details,
        "audience": request.audience,
        "language": language_name(request.language) if request.language else "",
        "tone": request.tone or "",
        "words": "" if words is None else str(words),
        # A line each: a customer's words must not look like a turn of the agent's.
        "conversation": "\n".join(
            f"{turn.role.capitalize()}: {' '.join(turn.text.split())}"
            for turn in request.conversation
        ),
        "choices": _listed(request.choices),
        "schema": json.dumps(schema, ensure_ascii=False) if schema else "",
    }
    return {name: defused(model.tokenizer, value) for name, value in values.items()}


def _listed(choices: tuple[str, ...]) -> str:
    *first, last = choices or ("",)
    return f"{', '.join(first)} or {last}" if first else last


def defused(tokenizer: Any, text: str) -> str:
    """The text without what stands for special tokens."""
    for token in sorted(special_texts(tokenizer), key=len, reverse=True):
        if token.strip():
            # A space, so that what is left on both sides does not make another.
            text = text.replace(token, " ")
    return text


def special_texts(tokenizer: Any) -> set[str]:
    """What stands for special tokens, and for others that were added to the vocabulary."""
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    return added | set(tokenizer.all_special_tokens)
