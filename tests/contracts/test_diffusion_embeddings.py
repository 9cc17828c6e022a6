"""Prompts that are encoded once: the same pictures, and no more encoding than there are texts."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.contracts import tiny_pipelines
from tests.contracts.pictures import (
    EDGES,
    LEVEL,
    MASK,
    MUG,
    Models,
    apart,
    item,
    pictures,
    replaced,
)
from workers.families.diffusion.capabilities import CAPABILITIES
from workers.families.diffusion.embeddings import Embeddings
from workers.families.diffusion.load import Loaded
from workers.family import Adapter, Item

# diffusers 0.42 hands torch tensors to numpy 2 in its schedulers.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
    # In diffusers itself, for what it imports from elsewhere in diffusers.
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning"),
    # Several adapters on one model is what we are after.
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning"),
]

REUSING = [name for name in tiny_pipelines.PIPELINES if CAPABILITIES[name].embeds]


def without(model: Loaded, monkeypatch: pytest.MonkeyPatch, *items: Item) -> list[Any]:
    """The pictures as the pipeline makes them from the texts themselves."""
    with monkeypatch.context() as patch:
        patch.setattr(Embeddings, "instead_of_texts", lambda _self, _sibling, call, _adapters: call)
        return pictures(model, *items)


def test_the_classes() -> None:
    """All that pad their texts to one length; the table has as many names as there are answers."""
    assert len(REUSING) == 7
    assert set(tiny_pipelines.PIPELINES) - set(REUSING) == {"QwenImagePipeline", "ZImagePipeline"}
    assert all(len(CAPABILITIES[name].embeds) == CAPABILITIES[name].encodes for name in REUSING)


@pytest.mark.parametrize("name", REUSING)
def test_the_same_pictures(models: Models, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what is kept of texts, or without; each is encoded once, however often it is asked."""
    model = models(name)
    kept = model.embeddings = Embeddings(model.capabilities)
    negative = model.capabilities.negative_prompt
    items = [
        item(model, 1, prompt="a blue mug"),
        item(model, 2, prompt="an apple, red as they come"),
        item(model, 3, prompt="a blue mug"),
    ]
    made = pictures(model, *items)
    assert (kept.hits, kept.misses) == ((3, 3) if negative else (1, 2))
    for one, two in zip(made, without(model, monkeypatch, *items), strict=True):
        assert apart(one, two) <= LEVEL
    before = kept.misses
    for one, two in zip(made, pictures(model, *items), strict=True):
        assert apart(one, two) == 0
    unguided = replaced(items[0], guidance=1.0)
    (alone,) = pictures(model, unguided)
    assert apart(alone, without(model, monkeypatch, unguided)[0]) <= LEVEL
    assert kept.misses == before
    if not negative:
        return
    against = [replaced(each, negative_prompt="blurred") for each in items]
    made = pictures(model, *against)
    assert kept.misses == before + 1
    for one, two in zip(made, without(model, monkeypatch, *against), strict=True):
        assert apart(one, two) <= LEVEL


@pytest.mark.parametrize("name", REUSING)
def test_every_task(models: Models, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Siblings take what the class itself has encoded."""
    control = name.replace("Pipeline", "ControlNetPipeline")
    has_control = "control" in CAPABILITIES[name].tasks
    model = models(control if has_control else name)
    inputs: dict[str, dict[str, Any]] = {
        "image-to-image": {"image": MUG},
        "inpaint": {"image": MUG, "mask": MASK},
        "control": {"control": EDGES},
        "control-image-to-image": {"image": MUG, "control": EDGES},
        "control-inpaint": {"image": MUG, "mask": MASK, "control": EDGES},
    }
    kept = model.embeddings = Embeddings(model.capabilities)
    for task in model.capabilities.tasks:
        one = item(model, 1, **inputs.get(task, {}))
        (made,) = pictures(model, one)
        assert apart(made, without(model, monkeypatch, one)[0]) <= LEVEL, task
    assert kept.misses == (2 if model.capabilities.negative_prompt else 1)


def test_what_decides_is_told_apart(models: Models) -> None:
    """How much of a text is read changes what becomes of it; its role does as well."""
    model = models("StableDiffusion3Pipeline")
    kept = model.embeddings = Embeddings(model.capabilities)
    pictures(model, item(model, prompt="red"))
    assert kept.misses == 2
    pictures(model, item(model, prompt="blue", negative_prompt="red"))
    assert kept.misses == 4
    long, short = (item(model, prompt="red " * 30, max_sequence_length=n) for n in (128, 16))
    assert apart(*(pictures(model, one)[0] for one in (long, short))) > 0


def test_the_bound(models: Models) -> None:
    """What is kept stays within it, whatever a call needs; the longest unused goes first."""
    model = models("StableDiffusionPipeline")
    text = 77 * 32 * 4
    kept = model.embeddings = Embeddings(model.capabilities, kept_bytes=3 * text)
    several = [item(model, n, prompt=f"mug {n}") for n in range(5)]
    made = pictures(model, *several)
    assert kept.size_bytes == 3 * text
    assert apart(pictures(model, several[0])[0], made[0]) <= LEVEL
    pictures(model, several[4])
    before = kept.misses
    pictures(model, several[4])
    assert kept.misses == before
    nothing = model.embeddings = Embeddings(model.capabilities, kept_bytes=0)
    assert apart(pictures(model, several[0])[0], made[0]) <= LEVEL
    assert nothing.size_bytes == 0


def test_adapters_on_text_encoders(models: Models, tmp_path: Path) -> None:
    """What one of them makes of a text is not taken for what another one would, nor for none."""
    model = models("StableDiffusionPipeline")
    kept = model.embeddings = Embeddings(model.capabilities)
    one, two = (_text_lora(model, tmp_path / str(seed), seed) for seed in (1, 2))
    (plain,) = pictures(model, item(model, 3))
    first, second = (pictures(model, item(model, 3, adapter))[0] for adapter in (one, two))
    assert apart(plain, first) > LEVEL
    assert apart(plain, second) > LEVEL
    assert apart(first, second) > 0
    before = kept.misses
    assert apart(pictures(model, item(model, 3, one))[0], first) == 0
    assert apart(pictures(model, item(model, 3))[0], plain) == 0
    assert kept.misses == before


def _text_lora(model: Loaded, folder: Path, seed: int) -> Adapter:
    """A LoRA of the text encoder alone."""
    generator = torch.Generator().manual_seed(seed)
    weights = {
        f"{name}.lora_{side}.weight": torch.randn(shape, generator=generator)
        for name, module in model.pipeline.text_encoder.named_modules()
        if name.endswith((".q_proj", ".v_proj"))
        for side, shape in (("A", (4, module.in_features)), ("B", (module.out_features, 4)))
    }
    model.pipeline.save_lora_weights(folder, text_encoder_lora_layers=weights)
    return Adapter(f"{folder}@1.0", 1.0, folder)


def test_no_prompt_is_kept(models: Models) -> None:
    """Texts are known by their digests alone."""
    model = models("StableDiffusionPipeline")
    kept = model.embeddings = Embeddings(model.capabilities)
    pictures(model, item(model, prompt="for Ada Lovelace"))
    keys = list(kept._rows)  # noqa: SLF001 (what is in memory is the point)
    assert [re.fullmatch("[0-9a-f]{64}", key) for key in keys].count(None) == 0
    assert len(keys) == 2
