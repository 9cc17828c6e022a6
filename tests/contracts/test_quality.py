"""The field ``quality``: what each level changes, says of it, and leaves alone."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.quality.known import of_known_distribution
from tests.contracts.loras import lora
from tests.contracts.pictures import LEVEL, Models, apart, item, pictures, results, same_alone
from tests.contracts.test_family import Steps
from workers.families.diffusion import quality
from workers.families.diffusion.load import Loaded
from workers.families.diffusion.quality import bits_on, is_estimated
from workers.family import Item

# diffusers 0.42 hands torch tensors to numpy 2 in its schedulers.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
    # Several adapters on one model is what we are after.
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning"),
    pytest.mark.filterwarnings("ignore:Adapter .* was active which is now deleted:UserWarning"),
]

STEPS = 8
CLASSES = [  # a UNet; flows; asked twice in a step; answers that are lists
    "StableDiffusionPipeline",
    "StableDiffusion3Pipeline",
    "FluxPipeline",
    "QwenImagePipeline",
    "ZImagePipeline",
]


def far(one: NDArray[Any], two: NDArray[Any]) -> float:
    """How far two pictures are apart on average, in levels of 255."""
    return float(np.abs(one - two).mean() * 255)


def facts(model: Loaded, one: Item) -> tuple[str, list[str]]:
    """What the output says of its quality."""
    (made,) = results(model, one)
    assert isinstance(made, list)
    return made[0].facts["quality"], made[0].facts["accelerations"]


@pytest.mark.parametrize("name", CLASSES)
def test_estimated_steps(models: Models, name: str) -> None:
    """The picture is nearly the same, whatever its mates, and nothing stays behind of it."""
    model = models(name)
    exact = item(model, 1, steps=STEPS)
    (before,) = pictures(model, exact)
    context = Steps()
    items = [item(model, n, prompt=f"mug {n}", steps=STEPS, quality="high") for n in (1, 2)]
    together = pictures(model, *items, context=context)
    assert context.seen[-1] == (STEPS, STEPS)
    assert len(context.seen) == STEPS
    same_alone(model, items, together)
    (high,) = pictures(model, item(model, 1, steps=STEPS, quality="high"))
    assert 0 < far(high, before) < 4
    assert facts(model, items[0]) == ("high", ["2 of 8 steps estimated"])
    assert apart(pictures(model, exact)[0], before) == 0
    (made,) = results(model, exact)
    assert isinstance(made, list)
    assert not {"quality", "accelerations"} & made[0].facts.keys()


def test_which_steps_are_estimated() -> None:
    """None at the beginning or the end, never two in a row, and at most half of them."""
    for steps in range(1, 60):
        estimated = [step for step in range(steps) if is_estimated(step, steps)]
        assert all(later - earlier == 2 for earlier, later in itertools.pairwise(estimated))
        assert all(steps / 3 <= step < steps - 2 for step in estimated)
        assert bool(estimated) is (steps >= 5)


@pytest.mark.parametrize(
    ("fields", "done"),
    [
        ({"steps": 4}, ["4 steps instead of 8"]),
        ({"steps": None}, ["4 steps instead of 8"]),
        ({"steps": 8, "scheduler": "euler-a"}, []),
        ({"steps": 8, "scheduler": "dpm++-2m-sde"}, []),
        ({"steps": 8, "scheduler": "euler"}, ["2 of 8 steps estimated"]),
        ({"steps": 12, "image": "sample:mug.png", "strength": 0.5}, ["1 of 6 steps estimated"]),
    ],
)
def test_what_cannot_be_done_is_not(
    models: Models, fields: dict[str, Any], done: list[str]
) -> None:
    """A draft of few steps, or with noise added on the way, is made without estimates."""
    model = models("StableDiffusionPipeline")
    assert facts(model, item(model, **{**fields, "quality": "draft"})) == ("draft", done)


def test_an_unknown_class_has_fewer_steps_only(models: Models) -> None:
    """How it asks its denoiser is not known, so that nothing is estimated."""
    model = models("SemanticStableDiffusionPipeline")
    (exact,) = pictures(model, item(model, steps=STEPS))
    high = item(model, steps=STEPS, quality="high")
    assert facts(model, high) == ("high", [])
    assert apart(pictures(model, high)[0], exact) == 0


@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "FluxPipeline"])
def test_int8(models: Models, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of 8-bit weights are near, whatever their mates; the exact ones stay as they are."""
    model = models(name)
    one = lora(model, tmp_path, 1)
    pictures(model, item(model, 1, one))  # its layers are on the model now
    monkeypatch.setattr(quality, "bits_on", lambda *_: "int8")
    items = [item(model, n, prompt=f"mug {n}", quality="draft", steps=4) for n in (1, 2)]
    same_alone(model, items, pictures(model, *items))
    eight_bits = model.denoiser.variant("int8", lambda denoiser: denoiser)
    assert not any("lora" in name for name, _ in eight_bits.named_modules())
    (before,) = pictures(model, item(model, 1, steps=4))
    (made,) = pictures(model, item(model, 1, quality="draft", steps=4))
    assert 0 < apart(made, before) < 16 * LEVEL
    assert apart(pictures(model, item(model, 1, steps=4))[0], before) == 0
    model.denoiser.drop("int8")


def test_which_devices_have_8_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not CPUs, where int8 is slower; fp8 where the GPU computes with it."""
    assert bits_on(torch.device("cpu"), torch.bfloat16) is None
    cuda = torch.device("cuda")
    for capability, in_bf16, in_fp32 in (
        ((7, 5), None, None),
        ((8, 0), "int8", "int8"),
        ((8, 9), "fp8", "int8"),
        ((9, 0), "fp8", "int8"),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, is_=capability: is_)
        assert (bits_on(cuda, torch.bfloat16), bits_on(cuda, torch.float32)) == (in_bf16, in_fp32)


def test_an_estimate_is_better_than_as_many_steps_less() -> None:
    """Of a known distribution: pictures of the same work are nearer to the exact ones."""
    rows = list(of_known_distribution(images=16))
    assert len(rows) == 12
    for estimated, fewer in zip(rows[::2], rows[1::2], strict=True):
        assert estimated.work == fewer.work
        assert 0 < estimated.mean < fewer.mean
        if estimated.way == "high":
            assert estimated.mean < 0.5
            assert estimated.work < 0.72
