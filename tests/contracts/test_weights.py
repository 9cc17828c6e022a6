"""What becomes of a model whose files lack a weight."""

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from storage.models import BUILT_IN
from workers.family import Device
from workers.registry import FAMILIES
from workers.weights import WeightsMissingError


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("debug-lm", "model.safetensors"),
        ("debug-diffusion", "text_encoder/model.safetensors"),
        ("debug-speech", "model.safetensors"),
    ],
)
def test_a_weight_is_missing(tmp_path: Path, name: str, file: str) -> None:
    """It is not loaded: transformers would draw the weight, each time another."""
    card = BUILT_IN[name]
    family = FAMILIES[card.family]
    family.debug(tmp_path)
    weights = load_file(tmp_path / file)
    lost = max(weights)
    del weights[lost]
    save_file(weights, tmp_path / file, metadata={"format": "pt"})
    with pytest.raises(WeightsMissingError, match=lost.rpartition(".")[2]):
        family.load(tmp_path, card, Device("cpu"))
