"""GANs: what their scores mean, and how draws are repeated."""

import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

from jobs.kinds.gan import GanRequest
from storage.models import BUILT_IN
from tests.contracts.test_family import Loaded, Steps, difference
from workers.families.gan import Gan
from workers.families.gan.generate import Picture, latent
from workers.families.gan.load import CONFIG, DISCRIMINATOR, GENERATOR
from workers.families.gan.model import Discriminator, GanConfig, Generator
from workers.family import Device, Item, JobError, Output

CARD = BUILT_IN["debug-gan"]
FREE = {"label": "stripes", "truncation": None}


@pytest.fixture(scope="module")
def gan(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """The debug model."""
    return Loaded(Gan(), CARD, tmp_path_factory.getbasetemp() / "cache")


def pixels(output: Output) -> NDArray[np.int16]:
    """An output's pixels, (height, width, 3)."""
    with Image.open(BytesIO(output.data)) as image:
        return np.asarray(image, dtype=np.int16)


def test_a_score_is_the_discriminators_own(gan: Loaded) -> None:
    """What is kept is its answer to the very picture, from 0 to 1, and so are the draws."""
    (outputs,) = gan.outputs([gan.item(5, **FREE, num_images=2)])
    assert len(outputs) == 2
    assert [output.facts["latent_seed"] for output in outputs] == [5, 6]
    classes = torch.tensor([1])
    for output in outputs:
        z, _ = latent(output.facts["latent_seed"], 16, 2, None)
        with torch.inference_mode():
            made = gan.model.generator(z[None], classes)
            score = torch.sigmoid(gan.model.discriminator(made, classes)).item()
        assert output.facts["score"] == pytest.approx(score, abs=1e-6)
        assert output.facts["draws"] == 1
        shown = (made[0].permute(1, 2, 0).numpy() + 1) * 127.5
        assert np.abs(pixels(output) - shown).max() <= 0.51
    assert outputs[0].facts["score"] != outputs[1].facts["score"]


def test_draws_until_the_score_is_reached(gan: Loaded) -> None:
    """Every picture draws again for itself, alike alone and in a batch, and can be made again."""
    items = [
        gan.item(1, **FREE, num_images=3, min_score=0.51),
        gan.item(2, **FREE),
        gan.item(3, **FREE, min_score=0.505, max_draws=50),
    ]
    several, once, one = gan.outputs(items)
    assert all(output.facts["score"] >= 0.51 for output in several)
    assert one[0].facts["score"] >= 0.505
    draws = [output.facts["draws"] for output in several]
    assert len(set(draws)) > 1
    assert max(draws) <= 16
    assert once[0].facts["draws"] == 1
    for item, together in zip(items, (several, once, one), strict=True):
        (alone,) = gan.outputs([item])
        assert difference(alone, together) <= 1 / 255
        assert [output.facts["draws"] for output in alone] == [
            output.facts["draws"] for output in together
        ]
    for output in several:
        (again,) = gan.outputs([gan.item(output.facts["latent_seed"], **FREE)])
        assert difference(again, [output]) <= 1 / 255


def test_a_score_that_is_not_reached(gan: Loaded) -> None:
    """After so many draws the job fails and says how good the best was; its mate does not."""
    items = [gan.item(1, min_score=1, max_draws=5, num_images=2), gan.item(2)]
    context = Steps()
    made = dict(gan.family.generate(gan.model, items, context))
    error = made[0]
    assert isinstance(error, JobError)
    assert (error.code, error.retry) == ("score_too_low", False)
    best = max(
        gan.outputs([gan.item(seed)])[0][0].facts["score"]
        for seed in (draw_seed(1, draw) for draw in range(1, 6))
    )
    assert f"none of 5 draws scored 1.0 or more, the best {best:.4f}" in error.message
    assert isinstance(made[1], list)
    # Three pictures at first, then two.
    assert context.seen == [(3, 11), (5, 11), (7, 11), (9, 11), (11, 11)]


def draw_seed(seed: int, draw: int) -> int:
    """The seed of a draw of a job's first picture."""
    return Picture(0, Item(uuid4(), GanRequest(seed=seed)), 0, draws=draw).latent_seed


def test_truncation(gan: Loaded) -> None:
    """A low one brings pictures closer together; only values beyond it are drawn again."""

    def spread(truncation: float) -> float:
        outputs = gan.outputs([gan.item(n, truncation=truncation) for n in range(24)])
        return float(np.std([pixels(output) for (output,) in outputs], axis=0).mean())

    assert spread(0.1) < spread(0.8) < spread(2)
    free, _ = latent(3, 1000, 2, None)
    bound, _ = latent(3, 1000, 2, 0.8)
    assert 0.75 < bound.abs().max() <= 0.8
    inside = free.abs() <= 0.8
    assert 400 < inside.sum() < 700
    assert torch.equal(bound[inside], free[inside])
    # The variance of a normal distribution cut off at 0.8 on both sides.
    assert bound.var().item() == pytest.approx(0.195, abs=0.03)


def test_labels(gan: Loaded) -> None:
    """A label makes a difference; without one the seed chooses, and the facts say what."""
    (rings,), (stripes,) = gan.outputs([gan.item(1, label="rings"), gan.item(1, label="stripes")])
    assert [output.facts["label"] for output in (rings, stripes)] == ["rings", "stripes"]
    assert np.abs(pixels(rings) - pixels(stripes)).max() > 10
    chosen = [output.facts["label"] for (output,) in gan.outputs(several(gan, label=None))]
    assert set(chosen) == {"rings", "stripes"}
    named = [gan.item(n, label=label) for n, label in enumerate(chosen)]
    assert (
        difference(
            [output for (output,) in gan.outputs(named)],
            [output for (output,) in gan.outputs(several(gan, label=None))],
        )
        <= 1 / 255
    )


def several(gan: Loaded, **changes: Any) -> list[Item]:
    """Ten items of seeds 0 to 9."""
    return [gan.item(n, **changes) for n in range(10)]


def write(folder: Path, config: GanConfig) -> None:
    """A model with weights as they come."""
    folder.mkdir(exist_ok=True)
    (folder / CONFIG).write_text(config.model_dump_json())
    save_file(Generator(config).state_dict(), folder / GENERATOR)
    save_file(Discriminator(config).state_dict(), folder / DISCRIMINATOR)


@pytest.mark.parametrize("size_px", [64, 128])
def test_a_model_without_classes(tmp_path: Path, size_px: int) -> None:
    """Its pictures have its own size, and no label."""
    write(tmp_path, GanConfig.model_validate({"size_px": size_px, "latent_size": 4, "channels": 2}))
    family, card = Gan(), replace(CARD, details={})
    model = family.load(tmp_path, card, Device("cpu"))
    item = Item(uuid4(), GanRequest(seed=1))
    ((_, outputs),) = family.generate(model, [item], Steps())
    assert isinstance(outputs, list)
    assert pixels(outputs[0]).shape == (size_px, size_px, 3)
    facts = outputs[0].facts
    assert (facts["width"], facts["height"], facts["label"]) == (size_px, size_px, None)


def test_weights_that_give_no_score(gan: Loaded, tmp_path: Path) -> None:
    """A score that is no number is never kept: JSON has no word for it."""
    gan.family.debug(tmp_path)
    model = gan.family.load(tmp_path, CARD, Device("cpu"))
    model.discriminator.head.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="the score is nan"):
        list(gan.family.generate(model, [gan.item(1)], Steps()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size_px": 48}, "size_px: Input should be 32, 64 or 128"),
        ({"latent_size": 0}, "latent_size: Input should be greater than or equal to 1"),
        ({"channels": "8"}, "channels: Input should be a valid integer"),
        ({"class_names": ["a", ""]}, r"class_names\[1\]: String should have at least 1"),
        ({"layers": 3}, "layers: unknown key"),
        ({"channels": 4}, "generator.safetensors does not hold the network of config.json"),
        ({"class_names": ["dots"]}, "'debug-gan': its card's labels are not the class_names"),
    ],
)
def test_a_configuration_that_is_wrong(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """The field is named."""
    Gan().debug(tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({**config, **changes}))
    with pytest.raises(ValueError, match=message):
        Gan().load(tmp_path, CARD, Device("cpu"))


@pytest.mark.parametrize("name", [CONFIG, GENERATOR, DISCRIMINATOR])
def test_a_file_that_is_missing_or_damaged(tmp_path: Path, name: str) -> None:
    """The file is named."""
    Gan().debug(tmp_path)
    (tmp_path / name).write_bytes(b"nothing of that sort")
    with pytest.raises(ValueError, match=name):
        Gan().load(tmp_path, CARD, Device("cpu"))
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=f"no GAN's directory: it has no {name}"):
        Gan().load(tmp_path, CARD, Device("cpu"))
