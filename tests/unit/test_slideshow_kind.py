"""The slideshow kind: which fields go together, and what a voice may be."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from jobs.campaigns.file import draft
from jobs.kinds.slideshow import SLIDESHOW, SlideshowRequest, resolve
from jobs.problems import BadInputError
from storage.models import BUILT_IN

CARD = BUILT_IN["slideshow"]


def request(**fields: Any) -> SlideshowRequest:
    """A request for a film."""
    return SlideshowRequest(**{"pictures": ("sample:mug.png",), **fields})


def test_what_is_left_out() -> None:
    """Without a voice each picture has its seconds; with one they share its length."""
    made = resolve(request(), CARD)
    assert (made.size, made.seconds, made.fps, made.motion) == ("1080x1080", 3.0, 24, "auto")
    assert resolve(request(seconds=1), CARD).seconds == 1
    assert resolve(request(voice="sample:voice.mp3"), CARD).seconds is None


def test_a_resolved_request_is_one() -> None:
    """What is stored is read again by the worker."""
    made = resolve(request(voice="sample:voice.mp3", headline="x"), CARD)
    assert SlideshowRequest.model_validate(made.model_dump(mode="json")) == made


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"headline": "x", "headline_from": "creative:x"}, "headline_from: there is a headline"),
        ({"seconds": 2, "voice": "creative:v"}, "seconds: the pictures share the length"),
        ({"size": "321x320"}, "size: 321x320: .* multiples of 2; nearest to 321: 320 or 322"),
        ({"size": "1922x320"}, "size: 1922x320: .* at most 1920 px a side"),
    ],
)
def test_fields_in_each_others_way(fields: Mapping[str, Any], message: str) -> None:
    """The message names one of the two, and what to do."""
    with pytest.raises(BadInputError, match=f"^{message}"):
        resolve(request(**fields), CARD)


@pytest.mark.parametrize(
    "fields",
    [
        {"pictures": ()},
        {"pictures": ("sample:mug.png",) * 21},
        {"headline": "x" * 301},
        {"headline": "a\0"},
        {"headline_from": "ftp://x"},
        {"seconds": 0.4},
        {"fps": 9},
        {"motion": "spin"},
        {"crossfade": -1},
        {"colour": "red"},
        {"position": "left"},
        {"size": "big"},
    ],
)
def test_requests_that_are_none(fields: Mapping[str, Any]) -> None:
    """Each field has its limits."""
    with pytest.raises(ValidationError) as caught:
        request(**fields)
    assert [error["loc"] for error in caught.value.errors()] == [tuple(fields)]


def test_a_bad_picture_is_named() -> None:
    """Of several pictures the one that is no reference is told."""
    with pytest.raises(ValidationError) as caught:
        request(pictures=("sample:mug.png", "http://example.com/x.png"))
    assert caught.value.errors()[0]["loc"] == ("pictures", 1)


@pytest.mark.parametrize("voice", ["voices/anna.mp3", f"picture:{'0' * 64}"])
def test_voices_that_were_not_made_here(voice: str) -> None:
    """Sounds cannot be uploaded: the message says which references can be used."""
    with pytest.raises(ValidationError, match="sounds cannot be uploaded; use job:ID or creative:"):
        request(voice=voice)


@pytest.mark.parametrize("voice", [f"job:{UUID(int=7)}", "creative:voice", "sample:voice.mp3"])
def test_voices(voice: str) -> None:
    """What a job made, or comes with Presswork, can be heard."""
    assert request(voice=voice).voice == voice


def test_templates() -> None:
    """In a campaign a voice or a headline may be a template, which is no file's key."""
    made = draft(
        SLIDESHOW,
        {
            "pictures": ["sample:mug.png"],
            "voice": "creative:{{ voice }}",
            "headline": "{{ product }}",
        },
    )
    assert resolve(made, CARD).model == "slideshow"  # type: ignore[arg-type]


def test_references() -> None:
    """Every file that a film starts from is named with its field."""
    made = request(pictures=("sample:mug.png", "creative:hero#1"), headline_from="creative:words")
    found = [(field, str(reference)) for field, reference in SLIDESHOW.references(made)]
    assert found == [
        ("pictures[0]", "sample:mug.png"),
        ("pictures[1]", "creative:hero#1"),
        ("headline_from", "creative:words"),
    ]


def test_all_share_a_batch() -> None:
    """Films are made one by one, so nothing need be equal."""
    one = SLIDESHOW.batch_key(resolve(request(), CARD), CARD)
    other = resolve(request(size="64x64", headline="x", fps=30), CARD)
    assert SLIDESHOW.batch_key(other, CARD) == one
