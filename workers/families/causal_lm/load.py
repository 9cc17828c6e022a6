"""From a transformers directory to a language model on the device: safetensors, no foreign code.

A chat template is a Jinja program out of the model's directory. transformers runs it in Jinja's
sandbox, where it can neither import nor change anything, but take its time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import llguidance
import llguidance.hf
import torch
from jinja2 import TemplateError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
)

from jobs.kinds.text import TextDetails
from jobs.kinds.values import read_details
from jobs.registry.inspection import check_tree
from storage.models import ModelCard
from workers import memory, pretrained
from workers.families.causal_lm.adapters import Adapters
from workers.family import Device
from workers.weights import whole

MAX_BATCH = 32
"""A call's rows. Where memory does not suffice for them, the runner makes calls smaller."""


@dataclass
class Loaded:
    """A model on its device, with its tokenizer.

    ``context_tokens`` are those that prompt and answer may have together (an encoder's: the
    prompt alone), None where there is no such limit. ``end_ids`` are the tokens that end an answer.
    """

    card: ModelCard
    details: TextDetails
    model: Any
    tokenizer: Any
    is_encoder_decoder: bool
    takes_system: bool
    context_tokens: int | None
    end_ids: frozenset[int]
    pad_id: int
    adapters: Adapters = field(default_factory=Adapters)

    @cached_property
    def grammar_tokens(self) -> llguidance.LLTokenizer | None:
        """The vocabulary as `llguidance` wants it, made on first use (about a second)."""
        if not self.tokenizer.is_fast:
            return None
        size = max(len(self.tokenizer), self.model.config.get_text_config().vocab_size)
        return llguidance.hf.from_tokenizer(self.tokenizer, size, sorted(self.end_ids))

    def padded(self, rows: Sequence[list[int]], *, left: bool) -> dict[str, torch.Tensor]:
        """Token ids with their mask, both of shape (rows, longest), on the device."""
        longest = max(map(len, rows))
        ids, mask = [], []
        for row in rows:
            fill = longest - len(row)
            before, after = (fill, 0) if left else (0, fill)
            ids.append([self.pad_id] * before + row + [self.pad_id] * after)
            mask.append([0] * before + [1] * len(row) + [0] * after)
        device = self.model.device
        return {
            "input_ids": torch.tensor(ids, device=device),
            "attention_mask": torch.tensor(mask, device=device),
        }


def load(files: Path, card: ModelCard, device: Device, **weights: Any) -> Loaded:
    """The model in ``files``, on the device, in the precision that the device decides.

    ``weights`` are arguments of ``from_pretrained`` by which they are kept in another form.

    Raises:
        ValueError: unsafe, not whole, no language model, or its card's details are wrong.
    """
    details = read_details(card, TextDetails)
    if not (files / "config.json").is_file():
        raise ValueError(f"{files} is not a transformers directory: it has no config.json")
    check_tree(files)
    pretrained.quieten()
    safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    config = AutoConfig.from_pretrained(files, **safe)
    is_encoder_decoder = bool(config.is_encoder_decoder)
    maker = AutoModelForSeq2SeqLM if is_encoder_decoder else AutoModelForCausalLM
    loaded = maker.from_pretrained(
        files,
        config=config,
        use_safetensors=True,
        output_loading_info=True,
        # fp32 on a CPU: the same seed gives the same text alone and in a batch. It costs little:
        # smollm2 wrote 22 tokens/s alone and 56 in a batch of 8, in bf16 21 and 82 (one core).
        **{"dtype": pretrained.dtype_on(device), **weights},
        **safe,
    )
    model = whole(loaded, files).eval()
    if "quantization_config" not in weights:  # what is quantized is there already
        model.to(device.type)
    tokenizer = AutoTokenizer.from_pretrained(files, **safe)
    end_ids = _ids(model.generation_config.eos_token_id) | _ids(tokenizer.eos_token_id)
    pad_id = next(iter(_ids(tokenizer.pad_token_id) or sorted(end_ids) or [0]))
    model.generation_config = _plain(model.generation_config, pad_id)
    return Loaded(
        card,
        details,
        model,
        tokenizer,
        is_encoder_decoder,
        takes_system(tokenizer),
        context_of(config),
        end_ids,
        pad_id,
    )


def context_of(config: Any) -> int | None:
    """The tokens that there may be in all; None: there is no such limit."""
    found: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return found


def unload(model: Loaded) -> None:
    """Drop the weights and give the device's cache back."""
    model.model = None
    memory.give_back()


def _ids(value: int | list[int] | None) -> frozenset[int]:
    if value is None:
        return frozenset()
    return frozenset([value] if isinstance(value, int) else value)


def _plain(given: GenerationConfig, pad_id: int) -> GenerationConfig:
    """Where an answer begins, as the model says, and nothing of how it would draw or end one."""
    return GenerationConfig(
        pad_token_id=pad_id,
        bos_token_id=given.bos_token_id,
        decoder_start_token_id=given.decoder_start_token_id,
        forced_bos_token_id=given.forced_bos_token_id,
        do_sample=False,
        num_beams=1,
    )


def takes_system(tokenizer: Any) -> bool:
    """Whether its chat template has a place for a system's message; some raise at one."""
    if not tokenizer.chat_template:
        return False
    messages = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    try:
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except TemplateError:
        return False
    return True
