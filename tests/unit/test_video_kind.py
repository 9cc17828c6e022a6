"""The video kind: what a model's card allows, and which jobs share a batch."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from jobs.kinds.video import VIDEO, VideoRequest, resolve
from jobs.problems import BadInputError
from storage.models import BUILT_IN, ModelCard

CARD = BUILT_IN["debug-video"]


def request(**fields: Any) -> VideoRequest:
    """A request for a clip."""
    return VideoRequest(**{"prompt": "a mug", **fields})


def card(**details: Any) -> ModelCard:
    """The debug model's card with other details."""
    return replace(CARD, details={**CARD.details, **details})


def key(**fields: Any) -> str:
    """The batch key of a request."""
    return VIDEO.batch_key(resolve(request(**fields), CARD), CARD)


def test_what_is_left_out_comes_from_the_card() -> None:
    """Size, frames, fps, steps and guidance are the model's; zero guidance is not left out."""
    made = resolve(request(guidance=0), CARD)
    assert (made.size, made.frames, made.fps, made.steps) == ("64x64", 9, 8, 4)
    assert made.guidance == 0
    made = resolve(request(size="32x64", frames=17, fps=24, steps=2), CARD)
    assert (made.size, made.frames, made.fps, made.steps) == ("32x64", 17, 24, 2)


@pytest.mark.parametrize(
    ("fields", "details", "message"),
    [
        ({"frames": 10}, {}, "frames: 10: .* multiple of 8 plus 1 frames; nearest: 9 or 17"),
        ({"frames": 8}, {}, "frames: 8: .*; nearest: 1 or 9"),
        (
            {"frames": 3},
            {"frames_multiple_of": 4, "frames_plus": 0},
            "frames: 3: .* makes a multiple of 4 frames; nearest: 4$",
        ),
        ({"frames": 73}, {}, "frames: 73: model 'debug-video' makes at most 65 frames"),
        ({"size": "60x64"}, {}, "size: 60x64: .* nearest to 60: 56 or 64"),
        ({"image": "sample:mug.png"}, {"tasks": ["text-to-video"]}, "image: .* takes no picture"),
        ({}, {"tasks": ["image-to-video"]}, "image: .* needs a picture to start from"),
        ({"prompt": ""}, {}, "prompt: model 'debug-video' needs a prompt"),
        ({"image": "sample:mug.png"}, {"prompt": False}, "prompt: .* leave prompt out"),
        ({}, {"tasks": []}, "model: the card of model 'debug-video' is wrong: details.tasks: "),
        ({}, {"colour": 1}, "model: the card of .* is wrong: details.colour: unknown key"),
    ],
)
def test_what_the_model_cannot_do(
    fields: Mapping[str, Any], details: Mapping[str, Any], message: str
) -> None:
    """The message names the field and what to do."""
    with pytest.raises(BadInputError, match=f"^{message}"):
        resolve(request(**fields), card(**details))


def test_odd_sides() -> None:
    """H.264 as players know it has one colour for two by two pixels."""
    with pytest.raises(BadInputError, match=r"^size: 33x64: the sides of a video are even$"):
        resolve(request(size="33x64"), replace(CARD, size_multiple_px=1))


def test_a_picture_alone() -> None:
    """A model that takes no prompt needs none."""
    made = resolve(VideoRequest(image="sample:mug.png"), card(prompt=False))
    assert made.task == "image-to-video"


@pytest.mark.parametrize(
    "fields",
    [
        {"image": "http://example.com/a.png"},
        {"image": "sample:../a"},
        {"frames": 0},
        {"fps": 0},
        {"fps": 61},
        {"steps": 0},
        {"guidance": float("nan")},
        {"prompt": "a\0"},
        {"size": "64"},
    ],
)
def test_requests_that_are_none(fields: Mapping[str, Any]) -> None:
    """Each field has its limits."""
    with pytest.raises(ValidationError) as caught:
        request(**fields)
    assert [error["loc"] for error in caught.value.errors()] == [tuple(fields)]


def test_what_shares_a_batch() -> None:
    """Words, seeds and which picture do not part jobs; whether there is one does."""
    assert key(prompt="x", negative_prompt="y", seed=3, frames=9) == key()
    assert key(image="sample:mug.png") == key(image="sample:apple.png")
    others: list[dict[str, Any]] = [
        {"size": "64x32"},
        {"frames": 17},
        {"fps": 9},
        {"steps": 5},
        {"guidance": 4},
        {"image": "sample:mug.png"},
    ]
    assert key() not in {key(**fields) for fields in others}
