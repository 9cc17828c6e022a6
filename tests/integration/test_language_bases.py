"""Which language models LoRAs are trained for, and what is asked of them in vain."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest

from jobs.services import Services
from jobs.trainings.bases import LANGUAGE, preset_of, problems_of
from jobs.trainings.requests import FinetuneRequest
from storage.models import BUILT_IN, Manifest, ModelCard
from storage.objects import model_key

CARD = BUILT_IN["debug-lm"]
REQUEST: dict[str, Any] = {"name": "voice", "model": CARD.name, "dataset": "voice"}


def card_of(services: Services, architecture: str) -> ModelCard:
    """A model of that class, in the bucket."""
    config = json.dumps({"architectures": [architecture]}).encode()
    sha256 = hashlib.sha256(config).hexdigest()
    services.objects.put(model_key(sha256), config, "application/json")
    manifest: Manifest = {"config.json": {"sha256": sha256, "size": len(config)}}
    return replace(CARD, name="writer", source="dir:/writer", manifest=manifest)


@pytest.mark.parametrize(
    ("architecture", "changes", "said"),
    [
        ("LlamaForCausalLM", {}, []),
        ("GPT2LMHeadModel", {"held_out": 0.1, "evaluate_every": 5}, []),
        ("T5ForConditionalGeneration", {}, ["model: model 'writer' is a T5ForConditionalGenera"]),
        (
            "LlamaForCausalLM",
            {"prior": {"prompt": "a mug"}, "size": "64x64", "evaluate_every": 5},
            [
                "prior: is for models of pictures",
                "size: is for models of pictures",
                "held_out: texts are evaluated on what is not learnt",
            ],
        ),
    ],
)
def test_bases(
    services: Services, architecture: str, changes: dict[str, Any], said: list[str]
) -> None:
    """Causal ones are trained, whatever else they are; the rest is told before it is queued."""
    card = card_of(services, architecture)
    found = problems_of(services.objects, card, FinetuneRequest(**REQUEST, **changes))
    assert len(found) == len(said)
    assert all(str(one).startswith(begin) for one, begin in zip(found, said, strict=True))
    assert preset_of(services.objects, card) == LANGUAGE
