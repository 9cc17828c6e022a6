"""The kinds ``gan`` and ``vae``: what may be asked for, and what a model makes of it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from jobs.kinds.gan import GAN, GanRequest
from jobs.kinds.vae import VAE, VaeRequest
from jobs.problems import BadInputError
from storage.models import BUILT_IN

GAN_CARD = BUILT_IN["debug-gan"]
VAE_CARD = BUILT_IN["debug-vae"]
APPLE, MUG = "sample:apple.png", "sample:mug.png"
TAKES_SIDES = "model 'debug-vae' takes sides that are multiples of 8; nearest to 60: 56 or 64"


def vae(**fields: Any) -> VaeRequest:
    """A request, resolved."""
    resolved = VAE.resolve(VaeRequest.model_validate(fields), VAE_CARD)
    assert isinstance(resolved, VaeRequest)
    return resolved


@pytest.mark.parametrize(("label", "name"), [(0, "rings"), (1, "stripes"), ("rings", "rings")])
def test_a_label_by_name_or_number(label: object, name: str) -> None:
    """Both are kept as the name, so that a request says what it is about."""
    resolved = GAN.resolve(GanRequest.model_validate({"label": label}), GAN_CARD)
    assert isinstance(resolved, GanRequest)
    assert resolved.label == name
    assert GAN.resolve(GanRequest(), GAN_CARD) == GanRequest()


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("stripe", r"has no label 'stripe'; did you mean 'stripes'\?"),
        ("1", "has no label '1'; known: rings, stripes"),
        (2, "has the labels 0 to 1, not 2"),
        (-1, "has the labels 0 to 1, not -1"),
    ],
)
def test_a_label_that_the_model_does_not_have(label: object, message: str) -> None:
    """The message says which there are."""
    with pytest.raises(BadInputError, match=f"^label: model 'debug-gan' {message}$"):
        GAN.resolve(GanRequest.model_validate({"label": label}), GAN_CARD)


def test_a_model_without_labels() -> None:
    """It takes none, also not the first."""
    with pytest.raises(BadInputError, match=r"^label: model 'debug-gan' has no labels; leave it"):
        GAN.resolve(GanRequest(label=0), replace(GAN_CARD, details={}))


def test_a_card_that_is_wrong() -> None:
    """What the card says is checked, before a worker meets it."""
    wrong = replace(GAN_CARD, details={"labels": "rings"})
    with pytest.raises(BadInputError, match=r"^model: the card of model .* details\.labels: Input"):
        GAN.resolve(GanRequest(label=0), wrong)


@pytest.mark.parametrize(
    "fields",
    [
        {"label": True},
        {"label": 0.5},
        {"label": "a\0"},
        {"truncation": 0.04},
        {"truncation": float("nan")},
        {"min_score": 1.1},
        {"max_draws": 0},
        {"max_draws": 101},
        {"num_images": 0},
        {"num_images": 17},
        {"size": "32x32"},
    ],
)
def test_gan_requests_that_are_none(fields: Mapping[str, Any]) -> None:
    """Each field has its limits, and there is no other field."""
    with pytest.raises(ValidationError) as caught:
        GanRequest(**fields)
    assert [error["loc"] for error in caught.value.errors()] == [tuple(fields)]


@pytest.mark.parametrize(
    ("fields", "filled"),
    [
        ({"mode": "reconstruct", "image": APPLE}, {}),
        ({"mode": "vary", "image": APPLE}, {"strength": 0.5}),
        ({"mode": "vary", "image": APPLE, "strength": 0}, {}),
        ({"mode": "interpolate", "image": APPLE, "other": MUG}, {"steps": 5}),
        ({"mode": "sample"}, {}),
    ],
)
def test_what_a_mode_leaves_open(fields: dict[str, Any], filled: dict[str, Any]) -> None:
    """Only what the mode takes is filled in; a resolved request stays as it is."""
    resolved = vae(**fields)
    given = resolved.model_dump(exclude_none=True, exclude={"model", "format"})
    assert given == {**fields, **filled, "size": "64x64"}
    assert VAE.resolve(resolved, VAE_CARD) == resolved


@pytest.mark.parametrize(
    ("fields", "problems"),
    [
        ({"mode": "reconstruct"}, ["image: mode reconstruct needs a picture here"]),
        ({"mode": "vary", "strength": 1}, ["image: mode vary needs a picture here"]),
        (
            {"mode": "vary", "image": APPLE, "other": MUG, "steps": 3},
            [
                "other: mode vary takes none; leave it out",
                "steps: mode vary takes none; leave it out",
            ],
        ),
        (
            {"mode": "interpolate", "image": APPLE, "strength": 0.1},
            [
                "other: mode interpolate needs a picture here",
                "strength: mode interpolate takes none; leave it out",
            ],
        ),
        ({"mode": "sample", "image": APPLE}, ["image: mode sample takes none; leave it out"]),
        (
            {"mode": "sample", "size": "60x64"},
            [f"size: 60x64: {TAKES_SIDES}"],
        ),
        (
            {"mode": "sample", "size": "264x64"},
            ["size: 264x64: model 'debug-vae' takes at most 256 px a side"],
        ),
    ],
)
def test_what_a_mode_does_not_do(fields: dict[str, Any], problems: list[str]) -> None:
    """All that is missing or of no use is named, with its field."""
    with pytest.raises(BadInputError) as caught:
        vae(**fields)
    assert [str(problem) for problem in caught.value.problems] == problems


@pytest.mark.parametrize(
    "fields",
    [
        {"mode": "blend"},
        {"image": "https://example.org/mug.png"},
        {"other": "a\0"},
        {"strength": 1.1},
        {"steps": 1},
        {"steps": 33},
        {"size": "64"},
    ],
)
def test_vae_requests_that_are_none(fields: Mapping[str, Any]) -> None:
    """Each field has its limits."""
    with pytest.raises(ValidationError) as caught:
        VaeRequest.model_validate({"mode": "sample", **fields})
    assert [error["loc"] for error in caught.value.errors()] == [tuple(fields)]


def test_models_of_another_kind() -> None:
    """Neither kind takes the other's model."""
    with pytest.raises(BadInputError, match=r"^model: model 'debug-vae' is for vae jobs, not gan$"):
        GAN.resolve(GanRequest(), VAE_CARD)
    with pytest.raises(BadInputError, match=r"^model: model 'debug-gan' is for gan jobs, not vae$"):
        VAE.resolve(VaeRequest(mode="sample"), GAN_CARD)


def test_what_shares_a_batch() -> None:
    """Modes, sizes and steps part autoencoders' jobs; pictures and strengths do not."""

    def key(**fields: Any) -> str:
        return VAE.batch_key(vae(**fields), VAE_CARD)

    vary = key(mode="vary", image=APPLE, seed=1)
    assert key(mode="vary", image=MUG, strength=0.1, size="64x64") == vary
    assert key(mode="vary", image=APPLE, size="64x32") != vary
    assert key(mode="reconstruct", image=APPLE) != vary
    mix = {"mode": "interpolate", "image": APPLE, "other": MUG}
    assert key(**mix) == key(**mix, steps=5) != key(**mix, steps=6)
    assert GAN.batch_key(GanRequest(label=1, min_score=0.5, num_images=3), GAN_CARD) == (
        GAN.batch_key(GanRequest(truncation=0.5), GAN_CARD)
    )
