"""A LoRA for a language model, learnt from chats: what the assistant says in them, and no more."""

import copy
import inspect
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict, prepare_model_for_kbit_training
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoTokenizer, BitsAndBytesConfig
from transformers.trainer_pt_utils import get_length_grouped_indices

from jobs.kinds.values import derived_seed
from jobs.registry import adapters
from jobs.trainings.requests import FinetuneRequest
from storage.models import ADAPTER
from workers import memory, pretrained
from workers.families.causal_lm import conversations, footing, load
from workers.families.causal_lm.conversations import Text
from workers.family import Device
from workers.training import precision, preflight, weights
from workers.training.learner import Learner, Optimisation
from workers.training.preflight import Need
from workers.training.trainer import Ground, Made, Numbers, Sample, TrainingError

_log = logging.getLogger(__name__)

MAX_TOKENS = 1024
"""Of a text, where the request does not say."""
SAMPLE_TOKENS = 48
"""Of an answer that shows how far it is."""
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
IGNORED = -100
"""The label of what is not learnt, as torch has it."""
_LEARNER = "adapter"


class VoiceTuning:
    """See `workers.training.trainer.Training`."""

    watched: str | None = "perplexity"

    def __init__(self, ground: Ground) -> None:
        request = ground.request
        assert isinstance(request, FinetuneRequest)
        assert ground.card
        assert ground.base
        assert request.steps
        self._ground, self._request, self._card = ground, request, ground.card
        self.steps = request.steps
        self.state: dict[str, Any] = {}
        quantized = _quantized(request, ground.device)
        self._read(ground.base)
        dtype = precision.dtype_of(request.precision, ground.device)
        self.need = self._needed(dtype)
        """What it takes of memory."""
        preflight.check(self.need, memory.available_bytes(ground.device), footing.CHANGE)
        self._loaded = load.load(ground.base, self._card, ground.device, dtype=dtype, **quantized)
        self._model = self._adapted()
        self.learners: Mapping[str, Learner] = {
            _LEARNER: Learner(self._model, Optimisation.of(request))
        }
        forward = inspect.signature(self._model.get_base_model().forward).parameters
        self._chooses_places = "logits_to_keep" in forward
        self._order: tuple[int, list[int]] = (-1, [])

    def resume(self, step: int) -> None:
        """See `Training.resume`."""
        del step  # the order of texts is made when it is needed

    def step(self, step: int) -> Numbers:
        """See `Training.step`. The loss is the mean over all tokens that are learnt in the step."""
        self._model.train()
        first = step * self._request.accumulate
        passes = [self._pass(first + n) for n in range(self._request.accumulate)]
        tokens = sum(sum(text.learnt[1:]) for texts in passes for text in texts)
        loss = 0.0
        for texts in passes:
            with self._computing():
                # Passes with few such tokens count for less, or each of theirs would for more.
                part = self._lost(texts) / tokens
            part.backward()
            loss += float(part.detach())
        return {"loss": loss, "tokens": tokens, **self.learners[_LEARNER].apply(step)}

    def evaluate(self, step: int) -> Numbers:
        """The perplexity of the texts held out: e to the mean loss of what is to be learnt."""
        del step
        if not self._held_out:
            return {}
        self._model.eval()
        held_out = sorted(self._held_out, key=lambda text: len(text.ids))
        lost, tokens = 0.0, 0
        with self._averaged(), torch.no_grad():
            for texts in _parts(held_out, self._batch):
                self._ground.look()
                with self._computing():
                    lost += float(self._lost(texts))
                tokens += sum(sum(text.learnt[1:]) for text in texts)
        loss = lost / tokens
        return {"perplexity": math.exp(min(loss, 700)), "held_out_loss": loss}

    def samples(self, step: int) -> Iterator[Sample]:
        """Its likeliest answer to each of the request's prompts."""
        del step
        self._model.eval()
        for prompt in self._request.sample_prompts:
            ids = conversations.prompt_of(
                self._loaded.tokenizer, prompt, takes_system=self._loaded.takes_system
            )
            with self._averaged(), torch.no_grad(), self._computing():
                written = self._model.generate(
                    **self._loaded.padded([ids], left=True),
                    max_new_tokens=SAMPLE_TOKENS,
                    eos_token_id=sorted(self._loaded.end_ids) or None,
                )
            answer = self._loaded.tokenizer.decode(written[0, len(ids) :], skip_special_tokens=True)
            yield Sample(prompt, answer.strip())

    def export(self, folder: Path) -> Made:
        """Write it as PEFT does, so that ``PeftModel.from_pretrained`` loads it."""
        with self._averaged():
            tensors = {
                name: one.detach().float().cpu().contiguous().clone()
                for name, one in get_peft_model_state_dict(
                    self._model, save_embedding_layers=False
                ).items()
            }
        about = {
            "base_model": self._card.identity,
            "dataset": self._ground.data.digest,
            "format": "pt",
            "rank": str(self._request.rank),
            "alpha": f"{self._request.alpha:g}",
            "steps": str(self.steps),
        }
        weights.write(folder / WEIGHTS, tensors, about)
        config = copy.deepcopy(self._model.peft_config["default"])
        config.base_model_name_or_path = self._card.name
        config.inference_mode = True
        config.target_modules = sorted(config.target_modules)  # a set has no order
        config.save_pretrained(folder)  # as CONFIG
        facts = {"texts": len(self._learnt), "cut": self._cut, "left_out": self._left_out}
        files = {path.name: path for path in folder.iterdir()}
        details, problems = adapters.examine(files, self._card.family)
        assert not problems, problems
        return Made(
            family=self._card.family,
            kind=ADAPTER,
            folder=folder,
            details=details,
            shown=(WEIGHTS, CONFIG),
            facts=facts,
        )

    # What it is made from.

    def _read(self, files: Path) -> None:
        """The dataset's texts as tokens: those that are learnt, and those held out."""
        safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        pretrained.quieten()
        self._config = AutoConfig.from_pretrained(files, **safe)
        if self._config.is_encoder_decoder:
            raise ValueError("adapters are trained for causal language models; this has an encoder")
        tokenizer = AutoTokenizer.from_pretrained(files, **safe)
        most = self._request.max_tokens or MAX_TOKENS
        found = conversations.read(
            tokenizer,
            self._ground.data.texts,
            min(most, load.context_of(self._config) or most),
            takes_system=load.takes_system(tokenizer),
            look=self._ground.look,
        )
        if found.cut:
            _log.warning(
                "%d of %d texts have more than %d tokens and are cut, %d of them to nothing",
                *(found.cut, self._ground.data.count, most, found.left_out),
            )
        self._cut, self._left_out = found.cut, found.left_out
        learnt, held_out = self._ground.data.divided(self._request.held_out, self._ground.seed)
        self._learnt = [found.texts[n] for n in learnt if n in found.texts]
        self._held_out = [found.texts[n] for n in held_out if n in found.texts]
        if not self._learnt:
            raise TrainingError(
                f"within {most} tokens none of the texts comes to what the assistant says: raise "
                "max_tokens"
            )
        self._batch = min(self._request.batch or 1, len(self._learnt))

    def _needed(self, dtype: torch.dtype) -> Need:
        texts = [*self._learnt, *self._held_out]
        longest = max(len(text.ids) for text in texts)
        # Rows answer at different places, and scores are made of all of them.
        answered = min(longest, self._batch * max(sum(text.learnt) for text in texts))
        return footing.need_of(
            self._config,
            self._request,
            dtype,
            rows=self._batch,
            longest=longest,
            answered=answered,
        )

    def _adapted(self) -> Any:
        model = self._loaded.model
        if self._request.quantize != "none":
            model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        if self._request.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(self._ground.seed)  # of the new weights
        return footing.with_lora(model, self._request)

    # What a pass is.

    def _pass(self, number: int) -> Sequence[Text]:
        """The texts of a pass, of like length: a function of its number and the seed alone."""
        epoch, place = divmod(number, math.ceil(len(self._learnt) / self._batch))
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(
                derived_seed("order", str(self._ground.seed), str(epoch))
            )
            lengths = [len(text.ids) for text in self._learnt]
            order = get_length_grouped_indices(lengths, self._batch, generator=generator)
            self._order = epoch, order
        start = place * self._batch
        return [self._learnt[index] for index in self._order[1][start : start + self._batch]]

    def _lost(self, texts: Sequence[Text]) -> Tensor:
        """The negative log-likelihood of all that is learnt of the texts, in nats."""
        inputs = self._loaded.padded([text.ids for text in texts], left=False)
        labels = inputs["input_ids"].masked_fill(~self._marked(texts, inputs["input_ids"]), IGNORED)
        wanted = labels[:, 1:]
        # Scores of a large vocabulary are most of a pass's memory: only where they are needed.
        places = (wanted != IGNORED).any(0).nonzero()[:, 0]
        options = {"logits_to_keep": places} if self._chooses_places else {}
        logits = self._model(**inputs, use_cache=False, **options).logits
        if not self._chooses_places:
            logits = logits[:, places]
        return functional.cross_entropy(
            logits.float().flatten(0, 1),
            wanted[:, places].flatten(),
            ignore_index=IGNORED,
            reduction="sum",
        )

    def _marked(self, texts: Sequence[Text], ids: Tensor) -> Tensor:
        """Where tokens are learnt, in the shape of ``ids``; padding is not."""
        marked = torch.zeros(ids.shape, dtype=torch.bool)
        for row, text in zip(marked, texts, strict=True):
            row[: len(text.learnt)] = torch.tensor(text.learnt)
        return marked.to(ids.device)

    def _averaged(self) -> AbstractContextManager[None]:
        return self.learners[_LEARNER].averaged()

    def _computing(self) -> AbstractContextManager[None]:
        return precision.autocast(self._request.precision, self._ground.device)


def _quantized(request: FinetuneRequest, device: Device) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` for weights in few bits (QLoRA, arXiv:2305.14314).

    Raises:
        ValueError: this worker has not what it takes.
    """
    if request.quantize == "none":
        return {}
    if device.type != "cuda" or find_spec("bitsandbytes") is None:
        lacks = "has no GPU" if device.type != "cuda" else "has not the package bitsandbytes"
        raise ValueError(f"quantize: {request.quantize} needs a GPU; this worker {lacks}")
    if request.quantize == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=precision.dtype_of(request.precision, device),
        )
    return {"quantization_config": config, "device_map": {"": device.type}}


def _parts(texts: Sequence[Text], size: int) -> Iterator[Sequence[Text]]:
    for start in range(0, len(texts), size):
        yield texts[start : start + size]
