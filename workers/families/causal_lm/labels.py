"""Choosing a label: its probability is read from the model, nothing is written."""

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import transformers

from jobs.kinds.text import TextRequest
from workers.families.causal_lm.load import MAX_BATCH, Loaded
from workers.family import Context, JobError, Output

VERSIONS = {"transformers": transformers.__version__, "torch": str(torch.__version__)}


def choose(
    model: Loaded,
    requests: Mapping[int, TextRequest],
    prompts: Mapping[int, list[int]],
    context: Context,
) -> Iterator[tuple[int, list[Output] | JobError]]:
    """Each item's likeliest choice, with the probabilities of all.

    A choice's is the softmax, over the choices, of the log-likelihood that the model gives to its
    tokens after the prompt.
    """
    rows = [
        (index, model.tokenizer(choice, add_special_tokens=False)["input_ids"])
        for index, request in requests.items()
        for choice in request.choices
    ]
    found: dict[int, list[float]] = {index: [] for index in requests}
    parts = [rows[start : start + MAX_BATCH] for start in range(0, len(rows), MAX_BATCH)]
    for done, part in enumerate(parts, start=1):
        likelihoods = log_likelihoods(
            model, [prompts[index] for index, _ in part], [label for _, label in part]
        )
        for (index, _), likelihood in zip(part, likelihoods, strict=True):
            found[index].append(likelihood)
        context.step(done, len(parts))
    for index, request in requests.items():
        shares = torch.tensor(found[index], dtype=torch.float64).softmax(0).tolist()
        answer = {
            "label": request.choices[shares.index(max(shares))],
            "probabilities": dict(zip(request.choices, shares, strict=True)),
        }
        facts = {
            "recipe": request.recipe,
            "prompt_tokens": len(prompts[index]),
            "completion_tokens": 0,
            "finish_reason": "stop",
            "tries": 1,
            **VERSIONS,
        }
        data = json.dumps(answer, ensure_ascii=False).encode()
        yield index, [Output(data, "application/json", facts)]


def log_likelihoods(
    model: Loaded, prompts: Sequence[list[int]], answers: Sequence[list[int]]
) -> list[float]:
    """Ln p(answer | prompt) of each row, summed over the answer's tokens."""
    longest = max(map(len, answers))
    inputs: dict[str, Any]
    if model.is_encoder_decoder:
        start = model.model.generation_config.decoder_start_token_id
        fed = [[start, *answer] for answer in answers]
        inputs = model.padded(prompts, left=False)
        # What follows an answer does not change what comes before: no mask is needed.
        inputs["decoder_input_ids"] = model.padded(fed, left=False)["input_ids"]
    else:
        whole = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
        inputs = model.padded(whole, left=True)
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
        if "logits_to_keep" in inspect.signature(model.model.forward).parameters:
            inputs["logits_to_keep"] = longest + 1
    with torch.inference_mode():
        logits = model.model(**inputs).logits.float()
    sums = []
    for row, answer in zip(logits, answers, strict=True):
        first = 0 if model.is_encoder_decoder else row.shape[0] - len(answer) - 1
        scored = row[first : first + len(answer)].log_softmax(-1)
        ids = torch.tensor(answer, device=scored.device)
        sums.append(float(scored.gather(1, ids[:, None]).sum()))
    return sums
