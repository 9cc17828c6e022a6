"""The models that adapters can be trained for, by the class of their pipeline or language model."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from jobs.kinds.sizes import check_size
from jobs.problems import BadInputError, Problem
from jobs.trainings.presets import Preset
from jobs.trainings.requests import FinetuneRequest
from storage.models import BUILT_IN, ModelCard
from storage.objects import ObjectStore, model_key

_LARGE = Preset(
    batch=1, learning_rate=1e-4, steps_per_item=60, steps=(500, 4000), rank=16, size="1024x1024"
)

PIPELINES: Mapping[str, Preset] = MappingProxyType(
    {
        "StableDiffusionPipeline": Preset(
            batch=4,
            learning_rate=1e-4,
            steps_per_item=50,
            steps=(400, 3000),
            rank=8,
            size="512x512",
        ),
        "StableDiffusionXLPipeline": replace(_LARGE, batch=2),
        "StableDiffusion3Pipeline": _LARGE,
        "FluxPipeline": _LARGE,
        "SanaPipeline": replace(_LARGE, batch=2),
        "QwenImagePipeline": _LARGE,
        "ZImagePipeline": _LARGE,
    }
)
"""Of diffusers; `workers.families.diffusion.finetune.hooks` has how each encodes and predicts.

A size is that of the model's card, where it has one of its own. Alpha is the rank.
"""

_FLOW_CLASSES = frozenset(PIPELINES) - {"StableDiffusionPipeline", "StableDiffusionXLPipeline"}
_PREDICTIONS = ("epsilon", "v_prediction")

LANGUAGE = Preset(
    batch=4, learning_rate=2e-4, steps_per_item=3, steps=(50, 5000), rank=16, max_tokens=1024
)
"""Of causal language models, whichever class."""

_CAUSAL = ("ForCausalLM", "LMHeadModel")
"""How transformers ends the names of their classes."""
_OF_PICTURES = ("prior", "min_snr_gamma", "size")


def preset_of(objects: ObjectStore, card: ModelCard) -> Preset:
    """The usual values for adapters of a model that `problems_of` has nothing against."""
    if card.kind == "text":
        return LANGUAGE
    return replace(PIPELINES[class_of(objects, card)], size=card.default_size)


def problems_of(objects: ObjectStore, card: ModelCard, request: FinetuneRequest) -> list[Problem]:
    """Why no adapter can be trained for that model, or not so."""
    if card.kind == "text" and card.family == "causal_lm":
        return list(_language_problems(objects, card, request))
    if card.family != "diffusion" or card.kind != "image":
        message = (
            f"model {card.name!r} is for {card.kind} jobs; adapters are trained for models of "
            "image and text jobs"
        )
        return [Problem(message, field="model")]
    name = class_of(objects, card)
    if name in PIPELINES:
        return list(_image_problems(objects, card, request, name))
    message = (
        f"model {card.name!r} is a {name}, and adapters are trained for {', '.join(PIPELINES)}"
    )
    return [Problem(message, field="model")]


def may_be_one(card: ModelCard) -> bool:
    """Whether it is of a family that adapters are trained for; `problems_of` looks closer."""
    return (card.kind, card.family) in (("text", "causal_lm"), ("image", "diffusion"))


def class_of(objects: ObjectStore, card: ModelCard) -> str:
    """The class of a pipeline, from its index in the bucket, without a ControlNet beside it."""
    if card.name in BUILT_IN:
        return "StableDiffusionPipeline"
    index = _read(objects, card, "model_index.json")
    return str(index.get("_class_name", "unknown")).replace("ControlNet", "")


def is_flow(scheduler: Mapping[str, Any]) -> bool:
    """Whether a scheduler with that configuration is for models trained by flow matching."""
    return (
        scheduler.get("prediction_type") == "flow_prediction"
        or bool(scheduler.get("use_flow_sigmas"))
        or str(scheduler.get("_class_name", "")).startswith("FlowMatch")
    )


def _image_problems(
    objects: ObjectStore, card: ModelCard, request: FinetuneRequest, name: str
) -> Iterator[Problem]:
    scheduler = _read(objects, card, "scheduler/scheduler_config.json")
    flows = name in _FLOW_CLASSES or is_flow(scheduler)
    if flows and request.min_snr_gamma is not None:
        message = (
            f"model {card.name!r} is trained by flow matching, which has no such weights: leave it "
            "out"
        )
        yield Problem(message, field="min_snr_gamma")
    predicts = scheduler.get("prediction_type", "epsilon")
    if not flows and predicts not in _PREDICTIONS:
        message = (
            f"the denoiser of {card.name!r} predicts {predicts!r}; adapters are trained for "
            "epsilon, v_prediction and flows"
        )
        yield Problem(message, field="model")
    if request.max_tokens is not None:
        yield Problem("is for models of text: leave it out", field="max_tokens")
    if request.patience is not None and not request.held_out:
        message = "patience is about the loss on pictures held out: say how many, such as 0.1"
        yield Problem(message, field="held_out")
    if request.size is not None:
        try:
            check_size(request.size, card)
        except BadInputError as error:
            yield from error.problems


def _language_problems(
    objects: ObjectStore, card: ModelCard, request: FinetuneRequest
) -> Iterator[Problem]:
    classes = _read(objects, card, "config.json").get("architectures") or ["unknown"]
    if card.name not in BUILT_IN and not str(classes[0]).endswith(_CAUSAL):
        message = (
            f"model {card.name!r} is a {classes[0]}, and adapters of language models are trained "
            "for causal ones (...ForCausalLM)"
        )
        yield Problem(message, field="model")
    for name in _OF_PICTURES:
        if getattr(request, name) is not None:
            yield Problem("is for models of pictures; leave it out", field=name)
    if request.evaluate_every and not request.held_out:
        message = "texts are evaluated on what is not learnt: say a share such as 0.1"
        yield Problem(message, field="held_out")


def _read(objects: ObjectStore, card: ModelCard, name: str) -> dict[str, Any]:
    """A JSON file of the model's in the bucket; empty if there is none."""
    entry = (card.manifest or {}).get(name)
    read = json.loads(objects.get(model_key(entry["sha256"]))) if entry else {}
    return read if isinstance(read, dict) else {}
