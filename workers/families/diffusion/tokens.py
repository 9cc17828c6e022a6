"""How much of a prompt the text encoders did not read."""

import inspect
from typing import Any

from transformers import CLIPTokenizer

from workers.families.diffusion.siblings import Sibling


def tokens_cut(sibling: Sibling, prompt: str, length: int | None, before: int = 0) -> int | None:
    """How many tokens at the end of the prompt no text encoder has read; None: not known.

    ``length`` is what a call reads at most, None: its default; ``before`` is how many tokens the
    pipeline itself writes ahead of the prompt.
    """
    pipeline = sibling.pipeline
    cuts = []
    for number in ("", "_2", "_3"):
        tokenizer = getattr(pipeline, f"tokenizer{number}", None)
        if tokenizer is None or getattr(pipeline, f"text_encoder{number}", None) is None:
            continue
        limit = _limit(tokenizer, sibling, length)
        if limit is None:
            return None
        cuts.append(max(0, len(tokenizer(prompt).input_ids) + before - limit))
    return min(cuts) if cuts else None


def _limit(tokenizer: Any, sibling: Sibling, length: int | None) -> int | None:
    if isinstance(tokenizer, CLIPTokenizer):  # it has so many positions and no more
        return int(tokenizer.model_max_length)
    parameter = sibling.arguments.get("max_sequence_length")
    if parameter is None:
        return None
    if length is not None:
        return length
    return None if parameter.default is inspect.Parameter.empty else parameter.default
