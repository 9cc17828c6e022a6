"""What text encoders make of prompts: made once per text, and kept where the pipeline computes."""

import hashlib
import inspect
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from workers.families.diffusion.capabilities import Capabilities
from workers.families.diffusion.siblings import Sibling
from workers.family import Adapter

KEPT_BYTES = 256 * 2**20
"""About 64 texts of FLUX (512 tokens of T5 in bf16), or 800 of SDXL."""

SETTINGS = ("max_sequence_length", "clean_caption", "complex_human_instruction")
"""Arguments of a call, beside its texts, that decide what the encoders make of these."""

_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")

Row = Mapping[str, torch.Tensor]
"""What was made of one text, by the argument of a call that takes it; without a batch dimension."""


class Embeddings:
    """One loaded model's, whose siblings share its text encoders; the longest unused are dropped.

    Prompts may be personal data: only digests of them are kept, in memory, and no longer than the
    model is.
    """

    def __init__(self, capabilities: Capabilities, kept_bytes: int = KEPT_BYTES) -> None:
        self._capabilities = capabilities
        self._kept_bytes = kept_bytes
        self._rows: OrderedDict[str, Row] = OrderedDict()  # by last use
        self._bytes = 0
        self.hits = 0
        """Texts that calls had and that were not encoded for them."""
        self.misses = 0
        """Texts that were encoded."""

    @property
    def size_bytes(self) -> int:
        """Of what is kept now."""
        return self._bytes

    def instead_of_texts(
        self, sibling: Sibling, call: Mapping[str, Any], adapters: Sequence[Sequence[Adapter]]
    ) -> dict[str, Any]:
        """The arguments of a call with what its texts become in place of these.

        ``adapters`` are those of each row, which are on already. Of a class whose texts cannot be
        encoded ahead the arguments stay as they are.
        """
        names = self._capabilities.embeds
        if not names:
            return dict(call)
        arguments = dict(call)
        texts = arguments.pop("prompt")
        against = arguments.pop("negative_prompt", None) or [None] * len(texts)
        settings = {
            name: arguments.get(name, sibling.arguments[name].default)
            for name in SETTINGS
            if name in sibling.arguments
        }
        on = [_on_encoders(sibling.pipeline, each) for each in adapters]

        def rows_of(role: str, of: Sequence[str | None], beside: Row | None = None) -> list[Row]:
            keys = [_digest(role, text, settings, each) for text, each in zip(of, on, strict=True)]
            encode = partial(self._encode, sibling, settings, beside)
            return self._rows_of(dict(zip(keys, of, strict=True)), keys, encode)

        positive = rows_of("prompt", texts)
        columns = [positive]
        if any(map(_is_negative, names)) and arguments[self._capabilities.guidance] > 1:
            arguments["negative_prompt"] = None  # or the default of some is a text
            columns.append(rows_of("negative_prompt", against, positive[0]))
        for rows in columns:
            arguments |= {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        return arguments

    def _rows_of(
        self,
        texts: Mapping[str, str | None],
        keys: Sequence[str],
        encode: Callable[[Sequence[str | None]], list[Row]],
    ) -> list[Row]:
        """The row of each key, those of the missing ``texts`` encoded in one call."""
        # Before anything is dropped: what the call needs may be more than is kept.
        found = {key: self._rows[key] for key in texts if key in self._rows}
        missing = [key for key in texts if key not in found]
        self.misses += len(missing)
        self.hits += len(keys) - len(missing)
        if missing:
            made = encode([texts[key] for key in missing])
            found |= dict(zip(missing, made, strict=True))
        for key, row in found.items():
            self._keep(key, row)
        return [found[key] for key in keys]

    def _encode(
        self,
        sibling: Sibling,
        settings: Mapping[str, Any],
        beside: Row | None,
        texts: Sequence[str | None],
    ) -> list[Row]:
        """What the class's own ``encode_prompt`` answers to texts of one role.

        Negative ones are encoded ``beside`` what another text has become, which is therefore not
        encoded again. A call's are all texts, or all None: what the class does without one.
        """
        names = self._capabilities.embeds
        pipeline = sibling.pipeline
        given: dict[str, Any] = {
            **settings,
            "device": pipeline.device,
            "num_images_per_prompt": 1,
            "do_classifier_free_guidance": beside is not None,
        }
        if beside is None:
            given["prompt"] = list(texts)
        else:
            given |= {
                name: tensor.expand(len(texts), *tensor.shape) for name, tensor in beside.items()
            }
            if texts[0] is not None:
                given["negative_prompt"] = list(texts)
        takes = inspect.signature(type(pipeline).encode_prompt).parameters
        for name, parameter in takes.items():
            if name != "self" and parameter.default is inspect.Parameter.empty:
                given.setdefault(name, None)
        answer = pipeline.encode_prompt(
            **{name: value for name, value in given.items() if name in takes}
        )
        made = {
            name: tensors
            for name, tensors in zip(names, answer, strict=True)
            if name is not None and _is_negative(name) is (beside is not None)
        }
        # Copies: a view of one row would keep all of them.
        return [
            {name: tensors[place].clone() for name, tensors in made.items()}
            for place in range(len(texts))
        ]

    def _keep(self, key: str, row: Row) -> None:
        if key not in self._rows:
            self._bytes += _size(row)
        self._rows[key] = row
        self._rows.move_to_end(key)
        while self._bytes > self._kept_bytes:
            _, oldest = self._rows.popitem(last=False)
            self._bytes -= _size(oldest)


def _is_negative(name: str | None) -> bool:
    return name is not None and name.startswith("negative_")


def _size(row: Row) -> int:
    return sum(tensor.nbytes for tensor in row.values())


def _on_encoders(pipeline: Any, adapters: Sequence[Adapter]) -> list[tuple[str, float]]:
    """The adapters that may change what text encoders make: all, once one has been put on them."""
    encoders = (getattr(pipeline, name, None) for name in _ENCODERS)
    if not any(getattr(encoder, "peft_config", None) for encoder in encoders):
        return []
    return [(adapter.identity, adapter.weight) for adapter in adapters]


def _digest(role: str, text: str | None, settings: Mapping[str, Any], on: Any) -> str:
    known = json.dumps([role, text, settings, on], sort_keys=True)
    return hashlib.sha256(known.encode()).hexdigest()
