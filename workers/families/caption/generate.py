"""Batches of captions: the likeliest word after word (BLIP, Li et al. 2022, arXiv:2201.12086)."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import transformers
from transformers import StoppingCriteria, StoppingCriteriaList

from jobs.kinds.caption import CaptionRequest
from workers.families.caption.load import Loaded
from workers.family import Context, Item, JobError, Output
from workers.pictures import opened

MAX_BATCH = 8


def generate(
    model: Loaded, items: Sequence[Item], context: Context
) -> Iterator[tuple[int, list[Output] | JobError]]:
    """The captions of the ``items``' pictures."""
    request = items[0].request
    assert isinstance(request, CaptionRequest)
    pictures = [opened(item.inputs["image"][0]) for item in items]
    pixels = model.processor(images=pictures, return_tensors="pt")["pixel_values"]
    watch = _Watch(context, request.max_tokens)
    with torch.inference_mode():
        tokens = model.model.generate(
            pixel_values=pixels.to(model.model.device, model.model.dtype),
            max_new_tokens=request.max_tokens,
            do_sample=False,
            num_beams=1,
            stopping_criteria=StoppingCriteriaList([watch]),
        )
    watch.end()
    texts = model.processor.batch_decode(tokens, skip_special_tokens=True)
    for index, text in enumerate(texts):
        if text.strip():
            facts = {"transformers": transformers.__version__, "torch": torch.__version__}
            data = text.strip().encode()
            yield index, [Output(data, "text/plain; charset=utf-8", facts)]
        else:
            yield index, JobError("no_caption", "the model has no words for it", retry=False)


class _Watch(StoppingCriteria):  # type: ignore[misc] # untyped
    """Tells of every token; what it raises ends the call."""

    def __init__(self, context: Context, most: int) -> None:
        self._context = context
        self._most = most
        self._done = 0

    def __call__(self, input_ids: torch.Tensor, _: Any, **__: Any) -> torch.Tensor:
        self._done += 1
        self._context.step(self._done, self._most)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    def end(self) -> None:
        if self._done < self._most:
            self._context.step(self._most, self._most)
