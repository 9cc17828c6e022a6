"""LoRAs on the tiny pipelines of diffusers, and pipelines that the table does not know."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from tests.contracts import tiny_pipelines
from tests.contracts.loras import lora
from tests.contracts.pictures import (
    APPLE,
    EDGES,
    FAMILY,
    LEVEL,
    MASK,
    MUG,
    Models,
    apart,
    error_of,
    item,
    pictures,
    pixels,
    results,
)
from tests.contracts.test_family import Steps
from workers.families.diffusion.adapters import KEPT
from workers.families.diffusion.capabilities import CAPABILITIES, UNKNOWN
from workers.families.diffusion.mixing import Mixing
from workers.family import Adapter, StopRequestedError

# diffusers 0.42 hands torch tensors to numpy 2 in its schedulers.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
    # Several adapters on one model is what we are after.
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning"),
    pytest.mark.filterwarnings("ignore:Adapter .* was active which is now deleted:UserWarning"),
]


@pytest.mark.parametrize(
    "name", ["StableDiffusionPipeline", "StableDiffusionXLPipeline", "FluxPipeline"]
)
def test_loras(models: Models, name: str, tmp_path: Path) -> None:
    """Each counts by its weight, several add up, and the next batch without has none."""
    model = models(name)
    one, two = (lora(model, tmp_path / str(seed), seed) for seed in (1, 2))

    def made(*adapters: Adapter, **fields: Any) -> NDArray[Any]:
        return pictures(model, item(model, 3, *adapters, **fields))[0]

    plain, started = made(), made(image=MUG)
    first, second, both = made(one), made(two), made(one, two)
    assert apart(plain, made(replace(one, weight=0))) == 0
    for a, b in ((plain, first), (plain, second), (first, second), (both, first), (both, second)):
        assert apart(a, b) > LEVEL
    assert apart(first, made(one, replace(two, weight=0))) <= LEVEL
    assert apart(first, made(replace(one, weight=0.5))) > 0
    assert apart(made(one), first) == 0
    assert apart(started, made(one, image=MUG)) > LEVEL  # a sibling has the same weights
    assert apart(plain, made()) == 0
    assert apart(started, made(image=MUG)) == 0


def test_loras_do_not_pile_up(models: Models, tmp_path: Path) -> None:
    """Those that were used longest ago are dropped, and loaded again when they are asked for."""
    model = models("StableDiffusionPipeline")
    mixing = Mixing(model.pipeline, model.denoiser, UNKNOWN)
    model = replace(model, mixing=mixing)
    several = [lora(model, tmp_path / str(seed), seed) for seed in range(KEPT + 2)]
    (before,) = pictures(model, item(model, 3, several[0], steps=1))
    for each in several[1:]:
        pictures(model, item(model, 3, each, steps=1))
    model.mixing.alone.use(several[-1:])
    assert len(model.mixing.alone.module.peft_config) == KEPT
    (after,) = pictures(model, item(model, 3, several[0], steps=1))
    assert apart(before, after) == 0


def test_loras_that_do_not_fit(models: Models, tmp_path: Path) -> None:
    """Each such job is told, and the model is as good as before."""
    model, other = models("StableDiffusionPipeline"), models("StableDiffusionXLPipeline")
    (before,) = pictures(model, item(model))
    foreign = lora(other, tmp_path, 1)
    for wrong in (model, models("FluxPipeline"), models("PixArtSigmaPipeline")):
        error = error_of(wrong, item(wrong, 1, foreign))
        assert error.code == "adapter_does_not_fit"
        assert len(error.message) < 300
    assert apart(pictures(model, item(model))[0], before) == 0


@pytest.mark.parametrize("name", tiny_pipelines.UNKNOWN)
def test_unknown_classes(models: Models, name: str) -> None:
    """They run one by one, tell their steps, stop when asked, and are as good as before."""
    model = models(name)
    assert name not in CAPABILITIES
    assert FAMILY.max_batch(model) == 1
    context = Steps()
    (before,) = pictures(model, item(model, steps=4), context=context)
    assert context.seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    stopping = Steps(last=2)
    with pytest.raises(StopRequestedError):
        pictures(model, item(model, steps=4), context=stopping)
    assert stopping.seen == [(1, 4), (2, 4)]
    context = Steps()
    (made,) = results(model, item(model, steps=4, num_images=2), context=context)
    assert isinstance(made, list)
    assert context.seen[-1] == (8, 8)
    assert apart(pixels(made[0]), before) == 0
    assert apart(pixels(made[1]), before) > LEVEL
    assert error_of(model, item(model, control=EDGES)).code == "unsupported"


def test_an_unknown_class_with_a_sibling(models: Models) -> None:
    """What diffusers itself takes for its image-to-image pipeline is used."""
    model = models("LatentConsistencyModelPipeline")
    mug, apple = (pictures(model, item(model, image=image))[0] for image in (MUG, APPLE))
    assert apart(mug, apple) > LEVEL
    assert error_of(model, item(model, image=MUG, mask=MASK)).code == "unsupported"
