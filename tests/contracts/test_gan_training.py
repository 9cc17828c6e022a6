"""GANs from scratch: who learns what when, and that jobs can use what comes of it."""

import math
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from jobs.trainings.architectures import GAN_SIDES_PX
from jobs.trainings.requests import TrainRequest
from storage.models import BUILT_IN, ModelCard
from tests.contracts.test_family import Loaded
from tests.training_parts import (
    assert_same,
    blots,
    everything,
    ground_of,
    interrupted,
    loop_of,
    request_of,
)
from workers.families.gan import Gan, losses
from workers.families.gan.load import DISCRIMINATOR, GENERATOR
from workers.families.gan.model import GanConfig
from workers.families.gan.train import GanTraining
from workers.training import draws
from workers.training.trainer import Made

SMALL = {"type": "gan", "width": 4, "latent": 8}


def request(architecture: dict[str, Any] | None = None, **fields: Any) -> TrainRequest:
    """A training of a few steps; with an average of weights."""
    return request_of({**SMALL, **(architecture or {})}, **{"ema": 0.9, **fields})


def training(plan: TrainRequest, count: int = 8) -> GanTraining:
    """One on a few pictures of two captions."""
    return GanTraining(ground_of(plan, blots(count)))


def card_of(made: Made) -> ModelCard:
    """What the registry would say of it."""
    fields = {"family": made.family, "kind": made.kind, "details": made.details, **made.card}
    return replace(BUILT_IN["debug-gan"], name="made", source=f"dir:{made.folder}", **fields)


def test_losses_are_those_of_the_papers() -> None:
    """Both are as computed by hand, from logits on two real and two made pictures."""
    real, fake = torch.tensor([2.0, -0.5]), torch.tensor([0.5, -3.0])

    def sure(logit: float) -> float:
        return -math.log(1 / (1 + math.exp(-logit)))

    bce = (sure(2.0) + sure(-0.5)) / 2 + (sure(-0.5) + sure(3.0)) / 2
    assert float(losses.of_discriminator("bce", real, fake)) == pytest.approx(bce)
    assert float(losses.of_generator("bce", fake)) == pytest.approx((sure(0.5) + sure(-3.0)) / 2)
    hinge = (0 + 1.5) / 2 + (1.5 + 0) / 2
    assert float(losses.of_discriminator("hinge", real, fake)) == pytest.approx(hinge)
    assert float(losses.of_generator("hinge", fake)) == pytest.approx(1.25)


@pytest.mark.parametrize("loss", ["bce", "hinge"])
def test_each_learns_while_the_other_is_still(loss: str) -> None:
    """A step of one changes all of its weights, and nothing of the other, nor its gradients."""
    gan = training(request({"loss": loss, "labels": True}))
    for name, step in (
        ("discriminator", gan.discriminator_step),
        ("generator", gan.generator_step),
    ):
        before = everything(gan)
        draws.begin(1, name)
        numbers = step(0)
        after = everything(gan)
        assert f"loss_{name}" in numbers
        for key, tensor in before.items():
            if key.startswith(f"{name}/weights"):
                assert not torch.equal(tensor, after[key]), key
            elif not key.startswith(name):
                assert torch.equal(tensor, after[key]), key
        for learner in gan.learners.values():
            assert all(one.grad is None for one in learner.parameters.values())
            assert all(one.requires_grad for one in learner.parameters.values())


def test_the_generator_may_learn_more_often() -> None:
    """With three of its steps for each of the discriminator's, its optimiser has taken them."""
    plan = request({"generator_steps": 3}, steps=2, accumulate=2)
    gan = training(plan)
    loop_of(gan, plan).run()
    found = everything(gan)
    assert float(found["generator/optimizer.0.step"]) == 6
    assert float(found["discriminator/optimizer.0.step"]) == 2


@pytest.mark.parametrize("labels", [False, True])
def test_stopped_and_gone_on(labels: bool) -> None:  # noqa: FBT001 (a case)
    """One that was stopped ends bit by bit as one that was not: both networks, and the average."""
    plan = request({"labels": labels}, held_out=0.25)
    whole = training(plan)
    loop_of(whole, plan.model_copy(update={"evaluate_every": 3, "sample_every": 3})).run()
    parts = interrupted(lambda: training(plan), plan, 3)
    assert whole.state.pop("evaluated")  # for the card of what is made
    assert_same(whole, parts)
    kinds = {(key.split("/")[0], key.split("/")[1].split(".")[0]) for key in everything(whole)}
    assert {("generator", "ema"), ("generator", "buffers"), ("discriminator", "buffers")} < kinds


def test_jobs_use_what_it_made(tmp_path: Path) -> None:
    """What is exported is a model of the family: of the averaged weights, scored by its own."""
    plan = request(held_out=0.25, steps=3, size="64x64")
    gan = training(plan)
    loop_of(gan, plan).run()
    made = gan.export(tmp_path)
    assert made.card["default_size"] == "64x64"
    loaded = Loaded(Gan(), card_of(made), tmp_path)
    (outputs,) = loaded.outputs([loaded.item(5, label=None, num_images=2, truncation=None)])
    for output in outputs:
        with Image.open(BytesIO(output.data)) as picture:
            assert picture.size == (64, 64)
        assert 0 < output.facts["score"] < 1
    weights = load_file(tmp_path / GENERATOR)
    with gan.learners["generator"].averaged():
        for name, parameter in gan.learners["generator"].parameters.items():
            assert torch.equal(weights[name], parameter), name
    assert not torch.equal(
        weights["layers.0.weight"], everything(gan)["generator/weights.layers.0.weight"]
    )
    assert load_file(tmp_path / DISCRIMINATOR).keys() >= {"head.bias"}
    numbers = gan.evaluate(3)
    assert "frechet" not in numbers  # of so few pictures it would say nothing
    assert 0 < numbers["score_held_out"] < 1
    assert numbers["loss_discriminator_held_out"] > 0
    draws.begin(1, "samples")
    (sample,) = gan.samples(3)
    assert isinstance(sample.content, Image.Image)
    assert sample.content.size == (4 * 66 - 2, 4 * 66 - 2)


def test_labels_decide_what_is_made(tmp_path: Path) -> None:
    """A GAN of red and of blue pictures makes those of the colour that a job asks for."""
    plan = request(
        {"labels": True, "width": 8, "loss": "hinge"},
        steps=80,
        batch=16,
        learning_rate=3e-3,
        schedule="constant",
    )
    rng = np.random.default_rng(1)

    def shades(channel: int) -> list[Image.Image]:
        pixels = rng.integers(0, 60, (32, 4, 4, 3), dtype=np.uint8)
        pixels[..., channel] += 180
        return [Image.fromarray(one).resize((32, 32)) for one in pixels]

    gan = GanTraining(ground_of(plan, {"red": shades(0), "blue": shades(2)}))
    loop_of(gan, plan).run()
    assert gan.evaluate(80)["frechet"] > 0
    made = gan.export(tmp_path)
    assert made.details == {"labels": ["blue", "red"]}
    loaded = Loaded(Gan(), card_of(made), tmp_path)
    for label, is_red in (("red", True), ("blue", False)):
        (outputs,) = loaded.outputs([loaded.item(1, label=label, num_images=8)])
        for output in outputs:
            with Image.open(BytesIO(output.data)) as picture:
                red, _, blue = np.asarray(picture, dtype=float).mean((0, 1))
            assert (red > blue) == is_red


def test_a_size_that_may_be_asked_for_can_be_made() -> None:
    """What is refused when a training is submitted is what the family would not load."""
    assert get_args(GanConfig.model_fields["size_px"].annotation) == GAN_SIDES_PX
