"""The tokenizer and the text encoder of a small pipeline, made from the captions themselves."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from jobs.trainings.architectures import TextEncoder
from workers.families.diffusion import debug

END_OF_WORD = "</w>"
LEAST = 2
"""What occurs less often is not worth a token."""


def tokenizer_of(captions: Sequence[str], spec: TextEncoder) -> CLIPTokenizer:
    """A byte-level BPE in CLIP's form, of at most ``spec.vocabulary`` tokens.

    Nothing is unknown to it: what its merges do not cover is read byte by byte. The same captions
    give the same tokens, which those of the tokenizers library do not: they number them in the
    order of a hash table, another one in each process.
    """
    bytewise: Any = debug.tokenizer()
    backend = bytewise.backend_tokenizer
    words: Counter[str] = Counter()
    for caption in captions:
        normal = backend.normalizer.normalize_str(caption)
        words.update(word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normal))
    known = bytewise.get_vocab()
    *tokens, start, end = sorted(known, key=lambda token: known[token])
    merges = merges_of(words, spec.vocabulary - len(known))
    tokens += [left + right for left, right in merges]
    vocabulary = {token: number for number, token in enumerate([*tokens, start, end])}
    return CLIPTokenizer(vocabulary, merges, model_max_length=spec.max_tokens)


def merges_of(words: Mapping[str, int], most: int) -> list[tuple[str, str]]:
    """The pairs that byte pair encoding merges, in their order (Sennrich et al. 2016).

    Of pairs that are equally frequent the first in the order of their characters comes first.
    """
    parts = {word: [*word[:-1], word[-1] + END_OF_WORD] for word in words}
    merges: list[tuple[str, str]] = []
    made: set[str] = set()
    while len(merges) < most:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in zip(parts[word], parts[word][1:], strict=False):
                pairs[pair] += count
        # One token can be put together in several ways; a vocabulary has it once.
        usable = [pair for pair, count in pairs.items() if count >= LEAST]
        usable = [pair for pair in usable if "".join(pair) not in made]
        if not usable:
            break
        best = min(usable, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        made.add("".join(best))
        for word, split in parts.items():
            parts[word] = _merged(split, best)
    return merges


def _merged(split: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for part in split:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def encoder_of(tokenizer: CLIPTokenizer, spec: TextEncoder) -> CLIPTextModel:
    """A text model for that tokenizer, with random weights."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=spec.width,
            intermediate_size=4 * spec.width,
            num_hidden_layers=spec.layers,
            num_attention_heads=spec.heads,
            max_position_embeddings=spec.max_tokens,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    )
