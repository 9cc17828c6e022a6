"""Autoencoders from scratch: that they learn, and that jobs can use what comes of it."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jobs.trainings.requests import TrainRequest
from storage.models import BUILT_IN
from tests.contracts.test_family import Loaded
from tests.dataset_files import encoded
from tests.training_parts import (
    Heard,
    assert_same,
    blots,
    ground_of,
    interrupted,
    loop_of,
    request_of,
)
from workers.families.vae import Vae
from workers.families.vae.train import VaeTraining
from workers.family import Input, Item
from workers.training import scenes
from workers.training.losses import gradient_l1

SMALL = {"type": "vae", "widths": [8, 16], "latent_channels": 4}


def request(**fields: Any) -> TrainRequest:
    """A training of a few steps; with an average of weights."""
    return request_of(SMALL, **{"ema": 0.9, **fields})


def training(plan: TrainRequest) -> VaeTraining:
    """One on a few pictures."""
    return VaeTraining(ground_of(plan, blots(8)))


def test_the_gradients_distance() -> None:
    """It is that of neighbours' differences: none for another brightness, some for blur."""
    picture = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
    assert float(gradient_l1(picture + 0.5, picture)) == 0
    # Across, both rows differ by 1 less; down, nothing does.
    assert float(gradient_l1(torch.zeros_like(picture), picture)) == 1


def test_it_learns_a_handful(tmp_path: Path) -> None:
    """The loss falls to a part of what it was, and a job reconstructs as well as is said."""
    plan = request(steps=80, batch=8, learning_rate=5e-3, evaluate_every=40, size="16x16")
    vae, heard = training(plan), Heard()
    first = vae.step(0)
    vae = training(plan)
    loop_of(vae, plan, saying=heard).run()
    last = heard.of("progress")[-1]
    assert last["l1"] < 0.75 * first["l1"]
    assert last["loss"] < 0.75 * first["loss"]
    early, late = heard.of("evaluated")
    assert late["l1"] < early["l1"]
    assert late["psnr"] > early["psnr"] > 5

    made = vae.export(tmp_path)
    fields = {"family": made.family, "kind": made.kind, "details": made.details, **made.card}
    card = replace(BUILT_IN["debug-vae"], name="made", source=f"dir:{tmp_path}", **fields)
    assert (card.default_size, card.size_multiple_px, card.max_side_px) == ("16x16", 2, 32)
    loaded = Loaded(Vae(), card, tmp_path)
    pixels = scenes.squares(ground_of(plan, blots(8)).data, 16)
    distances = []
    for picture in pixels:
        item = loaded.item(1, mode="reconstruct", strength=None, size="16x16")
        shown = Input(encoded(Image.fromarray(picture)), "image/png", "")
        given = Item(item.job_id, item.request, {"image": [shown]})
        ((output,),) = loaded.outputs([given])
        with Image.open(BytesIO(output.data)) as found:
            distances.append(np.abs(np.asarray(found, float) - picture).mean() / 127.5)
    assert np.mean(distances) == pytest.approx(late["l1"], abs=0.02)
    # The latents that the family works with have mean 0 and variance 1 in each channel.
    with torch.inference_mode():
        latents = (
            loaded.model.autoencoder.encode(
                scenes.to_tensor(pixels).to(loaded.model.autoencoder.dtype)
            )
            .latent_dist.mode()
            .float()
        )
    standard = (latents - loaded.model.mean) / loaded.model.std
    assert standard.mean((0, 2, 3)).tolist() == pytest.approx([0] * 4, abs=0.05)
    assert standard.std((0, 2, 3)).tolist() == pytest.approx([1] * 4, abs=0.05)
    scaled = latents * loaded.model.autoencoder.config.scaling_factor
    assert float(scaled.std()) == pytest.approx(1, abs=0.05)


def test_stopped_and_gone_on() -> None:
    """One that was stopped ends bit by bit as one that was not."""
    plan = request(held_out=0.25, evaluate_every=1, sample_every=2, accumulate=2)
    whole, heard = training(plan), Heard()
    loop_of(whole, plan, saying=heard).run()
    unseen = plan.model_copy(update={"sample_every": None})
    assert_same(whole, interrupted(lambda: training(plan), unseen, 5))
    # Two pictures are held out, each shown beside its reconstruction.
    assert [step for step, _ in heard.samples] == [2, 2, 4, 4, 6, 6]
    contents = [sample.content for _, sample in heard.samples]
    assert {content.size for content in contents if isinstance(content, Image.Image)} == {(66, 32)}
    assert {sample.caption for _, sample in heard.samples} <= {"first", "second"}


@pytest.mark.parametrize(
    ("widths", "groups"), [((16, 32, 64), 4), ((128, 256), 32), ((6, 10), 1), ((24, 48), 2)]
)
def test_norms_are_of_several_channels(widths: tuple[int, ...], groups: int) -> None:
    """Whatever the widths, the norms' groups divide them, and have four channels or more."""
    plan = request_of({**SMALL, "widths": widths})
    vae = training(plan).learners["autoencoder"].module
    assert vae.config.norm_num_groups == groups
