"""One row of a batch while it is written: its own noise, grammar, limit and stop strings."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import llguidance
import numpy as np
import torch
from transformers import TopKLogitsWarper, TopPLogitsWarper

from jobs.kinds.recipes import recipes
from jobs.kinds.text import TextRequest
from jobs.kinds.values import derived_seed
from workers.families.causal_lm.load import Loaded
from workers.families.causal_lm.prompts import schema_of

RETRY_TEMPERATURE = 0.5
"""Of a second try at least: the likeliest tokens would be the same again."""

Finish = Literal["stop", "length"]


@dataclass
class Row:
    """An answer as far as it is written. ``finish`` is None while it goes on."""

    model: Loaded
    request: TextRequest
    attempt: int
    tokens: list[int] = field(default_factory=list)
    finish: Finish | None = None

    def __post_init__(self) -> None:
        request = self.request
        assert request.temperature is not None
        assert request.max_tokens is not None
        floor = RETRY_TEMPERATURE if self.attempt else 0.0
        self._temperature = max(request.temperature, floor)
        self._max_tokens = request.max_tokens
        self._noise = torch.Generator("cpu").manual_seed(
            derived_seed(str(request.seed), str(self.attempt))
        )
        self._stops = (*request.stop, *recipes()[request.recipe].stop)
        schema = schema_of(request)
        self._matcher = _matcher(self.model, schema) if schema else None
        if schema:
            self._stops = request.stop  # a recipe's are for prose

    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        """What to take the argmax of for the next token.

        With Gumbel noise the argmax is a draw from the softmax (Gumbel-max trick, Maddison et al.
        2014, section 2). The noise is drawn on the CPU, one vector a position, so that it depends
        on the seed and the position alone.
        """
        if self._matcher is not None:
            logits = logits.masked_fill(~self._allowed(logits), -torch.inf)
        if self._temperature == 0:
            return logits
        scores = logits / self._temperature
        if self.request.top_k is not None:
            scores = TopKLogitsWarper(self.request.top_k)(None, scores[None])[0]
        if self.request.top_p is not None:
            scores = TopPLogitsWarper(self.request.top_p)(None, scores[None])[0]
        noise = torch.empty(logits.shape).exponential_(generator=self._noise).log().neg()
        return scores + noise.to(scores.device)

    def take(self, token: int) -> None:
        """The next token has been chosen."""
        if self.finish is not None:
            return
        self.tokens.append(token)
        if self._matcher is not None and token not in self.model.end_ids:
            self._matcher.consume_token(token)
            if self._matcher.is_stopped():  # complete, or in a dead end: the check will tell
                self.finish = "stop"
        if token in self.model.end_ids or self._stopped():
            self.finish = "stop"
        elif self.finish is None and len(self.tokens) == self._max_tokens:
            self.finish = "length"

    def text(self) -> str:
        """The answer, up to the first of its stop strings."""
        text = self._decode(self.tokens).strip()
        for stop in self._stops:
            text = text.partition(stop)[0]
        return text.strip()

    def _stopped(self) -> bool:
        if not self._stops:
            return False
        # A character has at most 4 tokens; a few more for what is cut through at the left.
        count = 4 * max(map(len, self._stops)) + 8
        tail = self._decode(self.tokens[-count:])
        if len(self.tokens) <= count:
            tail = tail.lstrip()
        return any(stop in tail for stop in self._stops)

    def _decode(self, tokens: list[int]) -> str:
        text: str = self.model.tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def _allowed(self, logits: torch.Tensor) -> torch.Tensor:
        assert self._matcher is not None
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(bits, bitorder="little").astype(bool)
        size = logits.shape[0]
        allowed = np.pad(allowed, (0, max(size - len(allowed), 0)))[:size]
        return torch.from_numpy(allowed).to(logits.device)


def _matcher(model: Loaded, schema: Mapping[str, Any]) -> llguidance.LLMatcher | None:
    """What keeps an answer to ``schema``; None if that is not possible: then only a check does.

    Keywords that it does not know are left to the check as well.
    """
    if model.grammar_tokens is None:
        return None
    grammar = llguidance.LLMatcher.grammar_from_json_schema(
        json.dumps(schema), overrides={"whitespace_flexible": False, "lenient": True}
    )
    matcher = llguidance.LLMatcher(model.grammar_tokens, grammar, log_level=0)
    return None if matcher.is_error() else matcher
