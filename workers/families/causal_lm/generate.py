"""Batches of answers: written token by token, each row drawn from its own seed, then checked."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from jobs.kinds.answers import read_answer
from jobs.kinds.recipes import recipes
from jobs.kinds.text import TextRequest
from workers.families.causal_lm import labels
from workers.families.causal_lm.load import Loaded
from workers.families.causal_lm.prompts import encode, schema_of
from workers.families.causal_lm.rows import Row
from workers.family import AdapterDoesNotFitError, Context, Item, JobError, Output

LENGTHS_APART = 64
"""Tokens by which prompts of one call may differ whatever their length."""


def generate(
    model: Loaded, items: Sequence[Item], context: Context
) -> Iterator[tuple[int, list[Output] | JobError]]:
    """The answers of ``items``, which all write or all choose a label, with the same adapters."""
    try:
        model.adapters.use(model.model, items[0].adapters)
    except AdapterDoesNotFitError as misfit:
        failed = JobError("adapter_does_not_fit", str(misfit), retry=False)
        yield from ((index, failed) for index in range(len(items)))
        return
    requests: dict[int, TextRequest] = {}
    prompts: dict[int, list[int]] = {}
    for index, item in enumerate(items):
        assert isinstance(item.request, TextRequest)
        prompt = encode(model, item.request)
        error = _too_long(model, prompt, item.request)
        if error:
            yield index, error
        else:
            requests[index], prompts[index] = item.request, prompt
    if not requests:
        return
    if any(recipes()[request.recipe].labels for request in requests.values()):
        yield from labels.choose(model, requests, prompts, context)
    else:
        parts = [{index: requests[index] for index in part} for part in _alike(prompts)]
        progress = _Progress(context, sum(limit * tries for limit, tries in map(_bounds, parts)))
        for part in parts:
            yield from _write(model, part, prompts, progress)


def _alike(prompts: Mapping[int, Sequence[int]]) -> list[list[int]]:
    """Prompts of like length, each part for a call of its own, short ones first.

    All rows of a call are as long as the longest: in one call with a text of 4,000 words, three
    short ones took five minutes on a CPU.
    """
    parts: list[list[int]] = []
    for index in sorted(prompts, key=lambda index: len(prompts[index])):
        if parts and len(prompts[index]) <= 2 * len(prompts[parts[-1][0]]) + LENGTHS_APART:
            parts[-1].append(index)
        else:
            parts.append([index])
    return parts


def _bounds(requests: Mapping[int, TextRequest]) -> tuple[int, int]:
    """The most tokens, and the most tries, that any of them may take."""
    limit = max(request.max_tokens or 0 for request in requests.values())
    return limit, max(request.tries for request in requests.values())


def _write(
    model: Loaded,
    requests: dict[int, TextRequest],
    prompts: dict[int, list[int]],
    progress: "_Progress",
) -> Iterator[tuple[int, list[Output] | JobError]]:
    """Ask for each answer until it is of use, as often as its request allows."""
    spent = dict.fromkeys(requests, 0)
    limit, tries = _bounds(requests)
    start = progress.done
    for attempt in range(tries):
        rows = {index: Row(model, request, attempt) for index, request in requests.items()}
        progress.begin(start + attempt * limit)
        _call(model, [prompts[index] for index in rows], list(rows.values()), progress)
        for index, row in rows.items():
            request = requests[index]
            spent[index] += len(row.tokens)
            facts = {
                "recipe": request.recipe,
                "prompt_tokens": len(prompts[index]),
                "completion_tokens": spent[index],
                "finish_reason": row.finish,
                "tries": attempt + 1,
                **labels.VERSIONS,
            }
            try:
                data, media_type = _checked(request, row)
            except ValueError as error:
                if attempt + 1 < request.tries:
                    continue
                yield index, _not_valid(request, row, str(error))
            else:
                yield index, [Output(data, media_type, facts)]
            del requests[index]
        if not requests:
            break
    progress.reach(start + limit * tries)


def _call(
    model: Loaded, prompts: Sequence[list[int]], rows: Sequence[Row], progress: "_Progress"
) -> None:
    """One call for all rows. A decoder's prompts are padded on the left, an encoder's not."""
    inputs = model.padded(prompts, left=not model.is_encoder_decoder)
    limit = max(row.request.max_tokens or 0 for row in rows)
    with torch.inference_mode():
        model.model.generate(
            **inputs,
            max_new_tokens=limit,
            logits_processor=LogitsProcessorList([_Draw(rows)]),
            stopping_criteria=StoppingCriteriaList([_Watch(rows, progress)]),
        )


class _Draw(LogitsProcessor):  # type: ignore[misc] # untyped
    """Lets every row turn its scores into those whose argmax it wants."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __call__(self, _: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        drawn = scores.clone()
        for index, row in enumerate(self._rows):
            if row.finish is None:
                drawn[index] = row.scores(scores[index])
        return drawn


class _Watch(StoppingCriteria):  # type: ignore[misc]
    """Tells every row its token, and which of them are done."""

    def __init__(self, rows: Sequence[Row], progress: "_Progress") -> None:
        self._rows = rows
        self._progress = progress

    def __call__(self, input_ids: torch.Tensor, _: Any, **__: Any) -> torch.Tensor:
        for row, token in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
            row.take(token)
        self._progress.step()
        done = [row.finish is not None for row in self._rows]
        return torch.tensor(done, device=input_ids.device)


class _Progress:
    """Tokens written, of those that may have to be."""

    def __init__(self, context: Context, total: int) -> None:
        self._context = context
        self._total = total
        self.done = 0

    def begin(self, done: int) -> None:
        self.done = done

    def step(self) -> None:
        self.done += 1
        self._context.step(self.done, self._total)

    def reach(self, done: int) -> None:
        if self.done != done:
            self.done = done
            self._context.step(done, self._total)


def _checked(request: TextRequest, row: Row) -> tuple[bytes, str]:
    """The answer as a file; ValueError says why it is of no use."""
    text = row.text()
    schema = schema_of(request)
    if schema is not None:
        answer = read_answer(text, schema)
        return json.dumps(answer, ensure_ascii=False).encode(), "application/json"
    if not text:
        raise ValueError("it is empty")
    return text.encode(), "text/plain; charset=utf-8"


def _not_valid(request: TextRequest, row: Row, reason: str) -> JobError:
    message = f"no answer of {request.tries} was of use; of the last one: {reason}"
    if row.finish == "length":
        message += f"; it was cut off at {request.max_tokens} tokens, so a larger max_tokens may do"
    return JobError("answer_not_valid", message, retry=False)


def _too_long(model: Loaded, prompt: Sequence[int], request: TextRequest) -> JobError | None:
    room = model.context_tokens
    if room is None:
        return None
    answer = 0 if model.is_encoder_decoder else request.max_tokens or 0
    if len(prompt) + answer <= room:
        return None
    message = (
        f"the prompt has {len(prompt)} tokens and the answer up to {answer}; model "
        f"{model.card.name!r} takes {room} in all: shorten text or details, or lower max_tokens"
    )
    return JobError("prompt_too_long", message, retry=False)
