"""Several adapters in one batch: each picture as if its adapter were the only one."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from tests.contracts.loras import kohya, lokr, lora, text_lora
from tests.contracts.pictures import (
    LEVEL,
    MUG,
    Models,
    apart,
    item,
    pictures,
    pixels,
    results,
    same_alone,
)
from tests.contracts.test_family import Steps
from workers.families.diffusion.bank import SLOTS, Bank, BankLinear
from workers.families.diffusion.capabilities import UNKNOWN
from workers.families.diffusion.denoiser import Denoiser
from workers.families.diffusion.load import Loaded
from workers.families.diffusion.mixing import Mixing
from workers.families.diffusion.swap import Swap
from workers.family import Item, JobError

# diffusers 0.42 hands torch tensors to numpy 2 in its schedulers.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning"),
    pytest.mark.filterwarnings("ignore:Adapter .* was active which is now deleted:UserWarning"),
]

SD = "StableDiffusionPipeline"
CLASSES = (
    SD,
    "StableDiffusionXLPipeline",
    "StableDiffusion3Pipeline",
    "FluxPipeline",
    "QwenImagePipeline",
    "ZImagePipeline",
)


def linears(model: Loaded) -> list[str]:
    """The names of all linear layers of the denoiser that a bank may change."""
    return [
        name
        for name, layer in model.denoiser.own.named_modules()
        if type(layer) is torch.nn.Linear and not name.startswith(model.capabilities.flat)
    ]


def by_peft(model: Loaded, one: Item) -> Any:
    """The picture that PEFT itself makes with the item's adapter."""
    mixing = Mixing(model.pipeline, model.denoiser, UNKNOWN)
    (made,) = pictures(replace(model, mixing=mixing), one)
    return made


@pytest.mark.parametrize("name", CLASSES)
def test_a_mixed_batch(models: Models, name: str, tmp_path: Path) -> None:
    """Each picture is the one that PEFT makes of it alone, whatever rank, weight and layers."""
    model = models(name)
    adapters = [
        replace(lora(model, tmp_path / "1", 1, bank=True), weight=-0.7),
        lora(model, tmp_path / "2", 2, rank=9, targets=linears(model), bank=True),
    ]
    items = [item(model, 3, adapter, steps=1) for adapter in (*adapters, adapters[0])]
    first, second, third = pictures(model, *items)
    assert apart(first, by_peft(model, items[0])) <= LEVEL
    assert apart(second, by_peft(model, items[1])) <= LEVEL
    assert apart(first, third) <= LEVEL
    assert apart(first, second) > LEVEL


def test_alone_and_together(models: Models, tmp_path: Path) -> None:
    """A picture is the same without its mates, with a start picture, and by kohya's names."""
    model = models(SD)
    adapters = [
        lora(model, tmp_path / "1", 1, bank=True),
        kohya(model, tmp_path / "2", 2, rank=4, alpha=2.0),
    ]
    for fields in ({}, {"image": MUG, "negative_prompt": "blue"}):
        items = [item(model, seed, adapter, **fields) for seed, adapter in enumerate(adapters)]
        made = pictures(model, *items)
        same_alone(model, items, made)
        assert apart(made[1], by_peft(model, items[1])) <= LEVEL
        bare = pictures(model, *(replace(one, adapters=()) for one in items))
        assert all(apart(one, other) > LEVEL for one, other in zip(made, bare, strict=True))
    for module in model.denoiser.own.modules():
        assert not isinstance(module, (BaseTunerLayer, BankLinear))


def test_more_than_the_bank_holds(models: Models, tmp_path: Path) -> None:
    """They are made in several calls; what is in the bank already is not read again."""
    model = models(SD)
    adapters = [lora(model, tmp_path / str(n), n, bank=True) for n in range(SLOTS + 2)]
    items = [item(model, 3, adapter, steps=1) for adapter in (*adapters, *adapters[:2])]
    context = Steps()
    made = pictures(model, *items, context=context)
    assert context.seen == [(1, 2), (2, 2)]
    assert apart(made[0], made[-2]) <= LEVEL
    assert len({picture.tobytes() for picture in made}) == len(adapters)
    shutil.rmtree(adapters[-1].files)
    again = pictures(model, *items[-3:-2])
    assert apart(again[0], made[-3]) <= LEVEL


def test_adapters_for_no_bank(models: Models, tmp_path: Path) -> None:
    """DoRAs, convolutions and text encoders have calls of their own, even if a card is wrong."""
    model = models(SD)
    plain = lora(model, tmp_path / "plain", 1, bank=True)
    others = [
        text_lora(model, tmp_path / "text", 4),
        lora(model, tmp_path / "dora", 2, dora=True),
        lora(model, tmp_path / "conv", 3, targets=("to_q", "conv1"), bank=True),
    ]
    items = [item(model, 3, adapter, steps=1) for adapter in (plain, *others, others[2])]
    context = Steps()
    made = pictures(model, *items, context=context)
    assert context.seen == [(n, 4) for n in (1, 2, 3, 4)]
    assert len({picture.tobytes() for picture in made}) == len(others) + 1
    (again,) = pictures(model, items[0])  # the text encoder is as before
    assert apart(again, made[0]) <= LEVEL
    for one, picture in list(zip(items, made, strict=True))[2:]:
        assert apart(picture, by_peft(model, one)) <= LEVEL


def test_a_lokr(models: Models, tmp_path: Path) -> None:
    """It works where diffusers reads such files."""
    model = models("ZImagePipeline")
    adapters = [(), (lokr(model, tmp_path / "lokr", 1),)]
    plain_picture, changed = pictures(model, *(item(model, 3, *used) for used in adapters))
    assert apart(plain_picture, changed) > LEVEL


def test_one_that_does_not_fit(models: Models, tmp_path: Path) -> None:
    """Its own jobs are told; its mates are made."""
    model, other = models(SD), models("StableDiffusionXLPipeline")
    good = lora(model, tmp_path / "good", 1, bank=True)
    bad = lora(other, tmp_path / "bad", 1, bank=True)
    used = (bad, good, bad)
    first, made, third = results(model, *(item(model, 3, one, num_images=2) for one in used))
    for error in (first, third):
        assert isinstance(error, JobError)
        assert (error.code, error.retry) == ("adapter_does_not_fit", False)
        assert bad.identity in error.message
    assert isinstance(made, list)
    (alone,) = pictures(model, item(model, 3, good))
    assert apart(pixels(made[0]), alone) <= LEVEL


def test_a_bank_compiles_once(models: Models, tmp_path: Path) -> None:
    """Whatever is in the bank, and whichever picture has which: the compiled code stays."""
    model = models(SD)
    adapters = [lora(model, tmp_path / str(n), n, rank=1 + n % 3, bank=True) for n in range(12)]
    bank = Bank(model.pipeline, Denoiser(model.pipeline), max_batch=8)
    bank.hold(adapters[:1])
    denoiser = bank.module(adapters[:1] * 4)
    with recompiling_nothing(denoiser) as difference:
        for start in (0, 4, 8, 2):
            used = [replace(one, weight=1 / (start + 1)) for one in adapters[start:][:4]]
            assert bank.hold(used) == {}
            assert bank.module(used) is denoiser
            assert difference() < LEVEL


def test_swapping_compiles_nothing(models: Models, tmp_path: Path) -> None:
    """Once a LoRA of zeros is where any of them is, each takes its place as it is."""
    model = models(SD)
    targets = [("to_q", "conv1"), ("to_q",), ("conv1",)]
    adapters = [
        lora(model, tmp_path / str(n), n, rank=4 - n, targets=layers)
        for n, layers in enumerate(targets)
    ]
    swap = Swap(model.pipeline, Denoiser(model.pipeline))
    swap.hold(adapters[0])
    denoiser = swap.module(adapters[0])
    with recompiling_nothing(denoiser) as difference:
        for adapter, weight in zip((*adapters[1:], *adapters), (1, -0.5, 0, 2, 1), strict=True):
            swap.hold(adapter)
            assert swap.module(replace(adapter, weight=weight)) is denoiser
            assert difference() < LEVEL


@contextmanager
def recompiling_nothing(denoiser: Any) -> Iterator[Callable[[], float]]:
    """Within, compiled blocks must stay as they are; gives how far their results are from eager."""
    block = denoiser.up_blocks[0]
    block.attentions[0].transformer_blocks[0].compile(backend="eager", fullgraph=True)
    block.resnets[0].compile(backend="eager", fullgraph=True)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(8, 4, 16, 16, generator=generator)
    width = denoiser.config.cross_attention_dim
    texts = torch.randn(8, 77, width, generator=generator)

    def difference() -> float:
        made = denoiser(latents, torch.tensor(500), texts).sample
        with torch.compiler.set_stance("force_eager"):
            expected = denoiser(latents, torch.tensor(500), texts).sample
        return float((made - expected).abs().max())

    with torch.inference_mode():
        difference()
        with torch.compiler.set_stance("fail_on_recompile"):
            yield difference
