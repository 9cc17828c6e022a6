"""Small text-to-image pipelines from scratch: what a judge decides, and what a stop must not."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jobs.trainings.architectures import TextEncoder
from jobs.trainings.requests import TrainRequest
from tests.cut_out_files import write_cut_outs
from tests.training_parts import assert_same, ground_of, interrupted, loop_of, request_of
from workers.families.diffusion.scratch import sampling, train
from workers.families.diffusion.scratch.text import merges_of, tokenizer_of
from workers.families.diffusion.scratch.train import TextToImage
from workers.training.trainer import TrainingError

# diffusers 0.42 hands torch tensors to numpy 2 in its schedulers.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

ARCHITECTURE = {
    "type": "text-to-image",
    "compose": {},
    "judge": {"steps": 3, "batch": 4, "gate": 0.0},
    "autoencoder": {"width": 8, "steps": 3, "batch": 4, "crop_px": 16, "latent_channels": 4},
    "text_encoder": {"width": 16, "heads": 2, "layers": 1, "vocabulary": 540, "max_tokens": 16},
    "denoiser": {"widths": [16, 32], "heads": [1, 2]},
    "bank": 16,
    "guidance": [2.0, 4.0],
}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PICTURES", 16), ("TESTED", 8), ("ENCODED", 8)):
        monkeypatch.setattr(train, name, value)
    for name, value in (("COMPARED", 4), ("EVALUATED", 4), ("STEPS", 2)):
        monkeypatch.setattr(sampling, name, value)


@pytest.fixture
def items(tmp_path: Path) -> dict[str, list[Image.Image]]:
    """Cut-outs by their names."""
    folder = write_cut_outs(tmp_path / "items")
    lines = (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    named = {line["text"]: line["file_name"] for line in map(json.loads, lines)}
    return {name: [Image.open(folder / file)] for name, file in named.items()}


def request(**parts: Any) -> TrainRequest:
    """Three steps of each part."""
    return request_of({**ARCHITECTURE, **parts}, steps=3, ema=0.9, checkpoint_every=1)


@pytest.mark.parametrize("at", [2, 4, 7], ids=["judge", "autoencoder", "denoiser"])
def test_stopped_and_gone_on(items: dict[str, list[Image.Image]], at: int) -> None:
    """One that was stopped in any of its parts ends bit by bit as one that was not."""
    plan = request()
    whole = TextToImage(ground_of(plan, items))
    loop_of(whole, plan).run()
    parts = interrupted(lambda: TextToImage(ground_of(plan, items)), plan, at)
    assert_same(whole, parts)


def test_the_best_guidance(items: dict[str, list[Image.Image]], tmp_path: Path) -> None:
    """With averaged weights, the judge compares all, and the best is the model's default."""
    plan = request()
    training = TextToImage(ground_of(plan, items))
    loop_of(training, plan).run()
    made = training.export(tmp_path / "made")
    tried = made.facts["by_guidance"]
    assert tried.keys() == {"2", "4"}
    assert tried[f"{made.card['default_guidance']:g}"] == max(tried.values())
    assert (tmp_path / "made" / "model_index.json").exists()


def test_the_gate(items: dict[str, list[Image.Image]]) -> None:
    """No denoiser is trained on latents from which nobody can tell the items."""
    plan = request(judge={"steps": 3, "batch": 4, "gate": 1.0})
    training = TextToImage(ground_of(plan, items))
    with pytest.raises(TrainingError, match=r"architecture\.judge\.gate is 100%"):
        loop_of(training, plan).run()


def test_tokens() -> None:
    """The same captions give the same tokens, the most frequent pairs first."""
    assert merges_of({"aab": 3, "ab": 2}, 2) == [("a", "b</w>"), ("a", "ab</w>")]
    spec = TextEncoder(vocabulary=540, max_tokens=16)
    captions = ["a mug on a red background", "a mug on a blue background"]
    one, other = tokenizer_of(captions, spec), tokenizer_of(captions[::-1], spec)
    assert one.get_vocab() == other.get_vocab()
    assert len(one) <= spec.vocabulary
    ids = one("A Müg on a red background").input_ids
    assert "a müg on a red background" in one.decode(ids)
