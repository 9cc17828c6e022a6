"""LoRAs for the tiny pipelines: each class learns, is resumed, and exports what it has learnt."""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from jobs.registry.adapters import examine
from jobs.trainings.bases import PIPELINES
from tests.contracts import tiny_pipelines
from tests.contracts.finetunes import (
    CPU,
    card,
    ground,
    made,
    same,
    tensors,
    trained,
    trained_in_parts,
)
from tests.contracts.pictures import FAMILY, LEVEL, apart, card_of, item, pictures
from workers.families.diffusion.capabilities import UNKNOWN
from workers.families.diffusion.finetune import base, showing
from workers.families.diffusion.finetune.export import KOHYA
from workers.families.diffusion.finetune.hooks import HOOKS
from workers.families.diffusion.finetune.hooks.hook import Crop, unpacked
from workers.families.diffusion.finetune.train import DiffusionLora
from workers.families.diffusion.load import Loaded
from workers.families.diffusion.mixing import Mixing
from workers.family import Adapter
from workers.training.trainer import Made

pytestmark = [
    # diffusers 0.42 hands torch tensors to numpy 2 in its schedulers.
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning"),
    pytest.mark.filterwarnings("ignore:Adapter .* was active which is now deleted:UserWarning"),
]

Files = Callable[[str], Path]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Tiny pipelines by their classes' names, each saved once."""
    saved: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in saved:
            saved[name] = tiny_pipelines.save(name, tmp_path_factory.mktemp(name))
        return saved[name]

    return get


def loaded(files: Path, name: str) -> Loaded:
    """The base as jobs have it."""
    return FAMILY.load(files, card_of(name), CPU)


def adapter_of(folder: Path, *, bank: bool) -> Adapter:
    """What was exported, as jobs have it."""
    return Adapter(f"{folder}@1", 1.0, folder, bank=bank)


def digests(exported: Made) -> list[str]:
    """Of all files."""
    files = [*sorted(exported.folder.iterdir()), *exported.extra]
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]


def test_the_two_tables_are_of_the_same_classes() -> None:
    """What is accepted can be trained, and what can be trained is accepted."""
    assert PIPELINES.keys() == HOOKS.keys()


@pytest.mark.parametrize("name", HOOKS)
def test_a_class(files: Files, name: str, tmp_path: Path) -> None:
    """It learns, also in parts; jobs use its adapter, alpha and all, by either naming."""
    begun = ground(files(name), name, prior={"prompt": "a mug", "pictures": 2}, ema=0.9)
    first = DiffusionLora(begun)
    first.resume(0)
    before = first.evaluate(0)["validation_loss"]
    training, whole = trained_in_parts(begun), trained(begun)
    assert same(tensors(training), tensors(whole))
    assert training.evaluate(4)["validation_loss"] < before
    assert training.evaluate(4) == training.evaluate(4)

    exported, other = made(training, tmp_path / "parts"), made(whole, tmp_path / "whole")
    assert digests(exported) == digests(other)
    assert exported.details["bank"]
    assert exported.details["rank"] == 4
    model = loaded(files(name), name)
    (plain,) = pictures(model, item(model))
    (banked,) = pictures(model, item(model, 1, adapter_of(exported.folder, bank=True)))
    assert apart(plain, banked) > LEVEL
    by_peft = Loaded(**{**vars(model), "mixing": Mixing(model.pipeline, model.denoiser, UNKNOWN)})
    (alone,) = pictures(by_peft, item(model, 1, adapter_of(exported.folder, bank=False)))
    assert apart(alone, banked) <= LEVEL
    for path in exported.extra:
        details, problems = examine({path.name: path})
        assert not problems
        assert (details["bank"], details["rank"]) == (True, 4)
        (imported,) = pictures(model, item(model, 1, adapter_of(path.parent, bank=True)))
        assert apart(imported, banked) <= LEVEL
    assert [path.name for path in exported.extra] == ([KOHYA] if HOOKS[name].kohya else [])


@pytest.mark.parametrize("name", HOOKS)
def test_the_denoiser_is_asked_as_the_pipeline_asks_it(files: Files, name: str) -> None:
    """Of what the pipeline has at a step, the hook's prediction is what its scheduler gets."""
    begun = ground(files(name), name)
    loaded_base = base.load(files(name), begun.request, CPU)  # type: ignore[arg-type]
    hook = loaded_base.hook
    scheduler = hook.pipeline.scheduler
    seen: list[tuple[Any, ...]] = []
    step = scheduler.step

    @functools.wraps(step)
    def noting(predicted: Any, told: Any, noisy: Any, *args: Any, **kwargs: Any) -> Any:
        is_scaled = isinstance(scheduler, diffusers.EulerDiscreteScheduler)
        given = scheduler.scale_model_input(noisy, told) if is_scaled else noisy
        seen.append((predicted, told, given))
        return step(predicted, told, noisy, *args, **kwargs)

    scheduler.step = noting
    none = 0.0 if name == "ZImagePipeline" else 1.0
    unguided = replace(card(name), default_guidance=none)
    list(showing.pictures(loaded_base, unguided, "a red mug", seed=1, count=1, size=(64, 32)))
    row = hook.encode("a red mug")
    crop = Crop((32, 64), (0, 0), (32, 64))
    for predicted, told, noisy in seen:
        if noisy.ndim == 3:
            side = hook.latent_px
            like = torch.zeros(1, noisy.shape[-1] // 4, 32 // side, 64 // side)
            predicted, noisy = unpacked(predicted, like), unpacked(noisy, like)  # noqa: PLW2901
        with torch.no_grad():
            ours = hook.predict(noisy, told.reshape(1).float(), [row], [crop])
        assert torch.allclose(ours, predicted, atol=1e-4)
    assert len(seen) == 2
