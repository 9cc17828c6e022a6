"""What finetuning a language model takes of memory, from its configuration and the request."""

import warnings
from typing import Any, Literal

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM

from jobs.trainings.requests import FinetuneRequest
from workers.training import preflight
from workers.training.preflight import Need

QUANTIZED_BYTES: dict[Literal["int8", "nf4"], float] = {"int8": 1.0, "nf4": 0.5 + 4 / 64}
"""Of a weight; nf4 has a float32 scale for each 64 (Dettmers et al. 2023, arXiv:2305.14314)."""
CHANGE = (
    "ask for a smaller batch (with accumulate for the rest), fewer max_tokens, a smaller rank, "
    "gradient_checkpointing, or quantize: nf4 on a GPU"
)


def with_lora(model: Any, request: FinetuneRequest) -> Any:
    """The model with a LoRA on all linear layers but the last, which alone learns.

    On those of attention and of the MLP, that is, as QLoRA's authors advise.

    Source: Dettmers et al. 2023 (arXiv:2305.14314), section 4: with fewer, more rank does not help.
    """
    assert request.rank
    alpha = request.alpha or request.rank
    config = LoraConfig(
        r=request.rank,
        lora_alpha=int(alpha) if alpha == int(alpha) else alpha,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5.23 by an older name, and sees itself to GPT-2's layers.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to False")
        return get_peft_model(model, config)


def need_of(
    config: Any,
    request: FinetuneRequest,
    dtype: torch.dtype,
    *,
    rows: int,
    longest: int,
    answered: int,
) -> Need:
    """The memory that a training takes with passes of so many ``rows``, computed in ``dtype``.

    ``longest`` is the most tokens that a row has, ``answered`` the most places at which any row of
    a pass has something to learn.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        adapted = with_lora(model, request)
    trainable = sum(one.numel() for one in adapted.parameters() if one.requires_grad)
    frozen = sum(one.numel() for one in adapted.parameters() if not one.requires_grad)
    base = frozen * dtype.itemsize
    if request.quantize != "none":
        linear = sum(
            module.get_base_layer().weight.numel()
            for module in adapted.modules()
            if isinstance(module, LoraLayer)
        )
        base -= int(linear * (dtype.itemsize - QUANTIZED_BYTES[request.quantize]))
    return preflight.needed(
        base_bytes=base,
        trainable=trainable,
        dtype=dtype,
        optimizer=request.optimizer,
        ema=request.ema is not None,
        activation_bytes=rows * _row_bytes(config, request, dtype, longest, answered),
    )


def _row_bytes(
    config: Any, request: FinetuneRequest, dtype: torch.dtype, longest: int, answered: int
) -> int:
    """What a pass keeps of a row: of each layer, and of the scores in float32 four times.

    A layer keeps what its norms, projections, attention and MLP are fed with, and its adapters.
    """
    text = config.get_text_config()
    hidden = text.hidden_size
    layers = text.num_hidden_layers
    heads = text.num_attention_heads
    attention = heads * (getattr(text, "head_dim", None) or hidden // heads)
    inner = getattr(text, "intermediate_size", None) or 4 * hidden
    numbers = 8 * hidden + 8 * attention + 5 * inner + 7 * (request.rank or 0)
    kept = layers * numbers
    if request.gradient_checkpointing:
        kept = layers * hidden + numbers
    row: int = longest * kept * dtype.itemsize + answered * text.vocab_size * 4 * 4
    return row
