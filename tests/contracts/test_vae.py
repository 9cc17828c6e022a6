"""Autoencoders: what each mode does with its pictures."""

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

from storage.models import BUILT_IN
from tests.contracts.test_family import Loaded, Steps, difference
from workers.families.vae import Vae
from workers.families.vae.generate import slerp
from workers.families.vae.load import CONFIG, WEIGHTS
from workers.family import Device, Input, Item, Output

CARD = BUILT_IN["debug-vae"]
APPLE, MUG = "sample:apple.png", "sample:mug.png"
ALIKE = round(1 / 255, 6)
RECONSTRUCT: dict[str, Any] = {"mode": "reconstruct", "strength": None}
MODES: dict[str, dict[str, Any]] = {
    "reconstruct": RECONSTRUCT,
    "vary": {"mode": "vary"},
    "interpolate": {"mode": "interpolate", "other": MUG, "steps": 3, "strength": None},
    "sample": {"mode": "sample", "image": None, "strength": None},
}


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """The debug model."""
    return Loaded(Vae(), CARD, tmp_path_factory.getbasetemp() / "cache")


def made(vae: Loaded, seed: int = 1, **changes: Any) -> list[Output]:
    """What one item alone gives."""
    (outputs,) = vae.outputs([vae.item(seed, **changes)])
    return outputs


def distance(some: list[Output], others: list[Output]) -> float:
    """The mean difference between two pictures, as a share of full scale."""
    (one,), (other,) = some, others
    return float(np.abs(pixels(one) - pixels(other)).mean())


def pixels(output: Output) -> NDArray[np.float64]:
    """An output's pixels, (height, width, 3), from 0 to 1."""
    with Image.open(BytesIO(output.data)) as image:
        return np.asarray(image, dtype=np.float64) / 255


def test_interpolation_goes_from_one_to_the_other(vae: Loaded) -> None:
    """Its ends are the two reconstructions, and between lie others, evenly."""
    context = Steps()
    item = vae.item(1, **{**MODES["interpolate"], "steps": 4})
    (outputs,) = vae.outputs([item], context)
    assert [output.facts["position"] for output in outputs] == [0, 1 / 3, 2 / 3, 1]
    first, last = made(vae, **RECONSTRUCT), made(vae, **RECONSTRUCT, image=MUG)
    assert difference(first, last) > 10 * ALIKE
    assert difference(outputs[:1], first) <= ALIKE
    assert difference(outputs[3:], last) <= ALIKE
    there = [distance([output], first) for output in outputs]
    assert there == sorted(there)
    assert len(set(there)) == 4
    assert context.seen == [(done, 6) for done in range(1, 7)]


def test_slerp() -> None:
    """The way leads along the arc, at the same speed; almost parallel latents are no trouble."""
    a, b = torch.zeros(2, 4, 2, 2), torch.zeros(2, 4, 2, 2)
    a[:, 0, 0, 0] = 1
    b[0, 1, 0, 0] = 1
    b[1] = a[1] * 1.00001
    third = slerp(a, b, 1 / 3)
    assert third[0, :2, 0, 0].tolist() == pytest.approx([np.cos(np.pi / 6), np.sin(np.pi / 6)])
    assert third[0].norm().item() == pytest.approx(1)
    assert torch.allclose(third[1], a[1], atol=1e-4)
    assert torch.equal(slerp(a, b, 0), a)
    assert torch.allclose(slerp(a, b, 1), b)


def test_strength(vae: Loaded) -> None:
    """0 is the reconstruction, whatever the seed; more is farther off; 1 forgets the picture."""
    plain = made(vae, **RECONSTRUCT)
    assert difference(made(vae, seed=2, strength=0), plain) == 0
    far = [distance(made(vae, strength=strength), plain) for strength in (0.05, 0.2, 0.5, 1)]
    assert far[0] > 0
    assert far == sorted(far)
    assert difference(made(vae, strength=1), made(vae, strength=1, image=MUG)) == 0
    assert difference(made(vae, strength=0.9), made(vae, strength=0.9, image=MUG)) > 0


def test_a_sample_is_a_decoded_latent_of_the_prior(vae: Loaded) -> None:
    """Noise of unit variance from the seed, at the scale of the model's latents."""
    (output,) = made(vae, seed=9, **{**MODES["sample"], "size": "48x32"})
    assert (output.facts["width"], output.facts["height"]) == (48, 32)
    noise = torch.randn(1, 4, 4, 6, generator=torch.Generator().manual_seed(9))
    with torch.inference_mode():
        decoded = vae.model.autoencoder.decode(noise / 5).sample[0]
    shown = (decoded.permute(1, 2, 0).clamp(-1, 1).numpy() + 1) / 2
    assert np.abs(pixels(output) - shown).max() <= ALIKE
    assert shown.std() > 0.01


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_alone_or_in_a_batch(vae: Loaded, mode: str) -> None:
    """An item's outputs do not depend on its batch mates."""
    pictures = [None] * 3 if mode == "sample" else [APPLE, MUG, "sample:edges.png"]
    items = [vae.item(n, **{**MODES[mode], "image": picture}) for n, picture in enumerate(pictures)]
    together = vae.outputs(items)
    assert difference(together[0], together[2]) > ALIKE
    for item, outputs in zip(items, together, strict=True):
        (alone,) = vae.outputs([item])
        assert len(outputs) == (3 if mode == "interpolate" else 1)
        assert difference(alone, outputs) <= ALIKE
        assert all(output.facts["mode"] == mode for output in outputs)


def test_pictures_are_cut_to_the_size(vae: Loaded) -> None:
    """What does not fit the proportions is cut off at both sides; nothing is stretched."""

    def reconstructed(left: str, middle: str) -> list[Output]:
        picture = Image.new("RGB", (192, 64), left)
        picture.paste(middle, (48, 0, 144, 64))  # more than stays, as scaling looks around
        file = BytesIO()
        picture.save(file, "PNG")
        request = vae.item(1, **RECONSTRUCT, size="32x32").request
        given = {"image": [Input(file.getvalue(), "image/png", "")]}
        (outputs,) = vae.outputs([Item(uuid4(), request, given)])
        return outputs

    assert difference(reconstructed("red", "blue"), reconstructed("green", "blue")) == 0
    assert difference(reconstructed("red", "blue"), reconstructed("red", "green")) > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "VQModel"}, "_class_name must be AutoencoderKL, not 'VQModel'"),
        ({"in_channels": 1}, "in_channels must be 3, not 1"),
        ({"latent_channels": 8}, f"{WEIGHTS} does not fit config.json"),
        ({"layers_per_block": 2}, f"{WEIGHTS} lacks decoder"),
        ({"norm_num_groups": 5}, f"{WEIGHTS} does not fit config.json"),
    ],
)
def test_a_configuration_that_is_wrong(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """What is wrong is named, and no weight is left to chance."""
    Vae().debug(tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({**config, **changes}))
    with pytest.raises(ValueError, match=message):
        Vae().load(tmp_path, CARD, Device("cpu"))


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_file_that_is_missing_or_damaged(tmp_path: Path, name: str) -> None:
    """The file is named."""
    Vae().debug(tmp_path)
    (tmp_path / name).write_bytes(b"nothing of that sort")
    with pytest.raises(ValueError, match=name):
        Vae().load(tmp_path, CARD, Device("cpu"))
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=f"no autoencoder's directory: it has no {name}"):
        Vae().load(tmp_path, CARD, Device("cpu"))


def test_latents_with_statistics_of_their_own(tmp_path: Path) -> None:
    """A shift, and a mean and deviation by channel, are undone on the way to the decoder."""
    Vae().debug(tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    shifted = {**config, "scaling_factor": 0.5, "shift_factor": 0.1}
    (tmp_path / CONFIG).write_text(json.dumps(shifted))
    model = Vae().load(tmp_path, CARD, Device("cpu"))
    assert (model.mean.flatten().tolist(), model.std.item()) == ([pytest.approx(0.1)], 2)
    by_channel = {**config, "scaling_factor": 0.5, "latents_mean": [1, 2, 3, 4]}
    (tmp_path / CONFIG).write_text(json.dumps({**by_channel, "latents_std": [4, 3, 2, 1]}))
    model = Vae().load(tmp_path, CARD, Device("cpu"))
    assert model.mean.flatten().tolist() == [1, 2, 3, 4]
    assert model.std.flatten().tolist() == [8, 6, 4, 2]


def test_a_card_with_sizes_that_are_none(tmp_path: Path) -> None:
    """Sizes that the autoencoder cannot make are found when it is loaded."""
    Vae().debug(tmp_path)
    with pytest.raises(ValueError, match="must be multiples of 8 px, not of 4"):
        Vae().load(tmp_path, replace(CARD, size_multiple_px=4), Device("cpu"))
