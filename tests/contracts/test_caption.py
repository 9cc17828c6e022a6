"""Captions: they depend on the picture, and only captioners are loaded."""

from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from jobs.kinds.caption import CaptionRequest
from storage.models import BUILT_IN
from storage.objects import sha256_hex
from tests.dataset_files import encoded
from workers.families.caption import Caption
from workers.families.causal_lm import CausalLM
from workers.family import Device, Input, Item, Output
from workers.weights import WeightsMissingError

CARD = BUILT_IN["debug-caption"]


class Quiet:
    """A context that nobody listens to."""

    def step(self, done: int, total: int) -> None:
        """See `Context.step`."""


def item(colour: str, max_tokens: int = 6) -> Item:
    """A plain picture to describe."""
    request = CaptionRequest(image="sample:mug.png", max_tokens=max_tokens, seed=1)
    png = encoded(Image.new("RGB", (80, 40), colour))
    return Item(uuid4(), request, {"image": [Input(png, "image/png", sha256_hex(png))]})


def test_what_is_written_is_what_is_seen(tmp_path: Path) -> None:
    """Other pictures have other captions, of no more words than were asked for."""
    family = Caption()
    family.debug(tmp_path)
    model = family.load(tmp_path, CARD, Device("cpu"))
    colours = ("white", "black", "red", "blue", "green")
    made = dict(family.generate(model, [item(colour) for colour in colours], Quiet()))
    said = []
    for index in range(len(colours)):
        outputs = made[index]
        assert isinstance(outputs, list), outputs
        said.append(_text(outputs))
    assert len(set(said)) > 1
    assert all(1 <= len(text.split()) <= 6 for text in said)


def _text(outputs: Sequence[Output]) -> str:
    (output,) = outputs
    assert isinstance(output.data, bytes)
    return output.data.decode()


def test_only_captioners_are_loaded(tmp_path: Path) -> None:
    """A language model is named as what it is, and weights that are missing are not made up."""
    CausalLM().debug(tmp_path / "lm")
    with pytest.raises(ValueError, match="of type llama; captions are written by blip"):
        Caption().load(tmp_path / "lm", CARD, Device("cpu"))
    folder = tmp_path / "blip"
    Caption().debug(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("text_decoder.cls.predictions.bias")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsMissingError, match=r"cls\.predictions\.bias"):
        Caption().load(folder, CARD, Device("cpu"))
