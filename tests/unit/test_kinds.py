"""Kinds: what a request may hold, what a model makes of it, and which jobs share a batch."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from jobs.kinds import KINDS, Kind
from jobs.kinds.image import IMAGE, ImageRequest, resolve
from jobs.kinds.sizes import parse_size
from jobs.kinds.values import MAX_SEED, check_storable, derived_seed
from jobs.problems import BadInputError
from storage.models import BUILT_IN, ModelCard

CARD = BUILT_IN["debug-diffusion"]


def request(**fields: Any) -> ImageRequest:
    """A request for a picture."""
    return ImageRequest(**{"prompt": "a mug", **fields})


def key(card: ModelCard = CARD, **fields: Any) -> str:
    """The batch key of a request."""
    return IMAGE.batch_key(resolve(request(**fields), card), card)


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_every_kind_declares_what_doors_rely_on(kind: Kind) -> None:
    """Its default model exists and makes it, its example is complete, its templates are fields."""
    card = BUILT_IN[kind.default_model]
    assert card.kind == kind.name
    assert kind.templates <= kind.Request.model_fields.keys()
    assert kind.summary.endswith(".")
    example = kind.Request.model_validate(kind.example)
    assert example.model == kind.default_model
    assert kind.Request.model_config.get("extra") == "forbid"
    assert kind.resolve(example, card) == example
    assert kind.Request.model_fields["model"].default == kind.default_model


def test_kinds_are_found_by_name() -> None:
    """The name in the mapping is the kind's own, and nobody adds one at run time."""
    assert {name: kind.name for name, kind in KINDS.items()} == {name: name for name in KINDS}
    assert not hasattr(KINDS, "__setitem__")


def test_what_is_left_out_comes_from_the_card() -> None:
    """Size, steps and guidance are the model's defaults; zero guidance is not left out."""
    resolved = resolve(request(guidance=0), CARD)
    assert (resolved.size, resolved.steps, resolved.guidance) == ("128x128", 8, 0)
    resolved = resolve(request(size="64x32", steps=1), CARD)
    assert (resolved.size, resolved.steps, resolved.guidance) == ("64x32", 1, 5.0)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("100x96", "multiples of 8; nearest to 100: 96 or 104"),
        ("96x4", "multiples of 8; nearest to 4: 8 or 16"),
        ("520x512", "takes at most 512 px a side"),
        ("512x99999", "multiples of 8; nearest to 99999: 99992 or 100000"),
    ],
)
def test_a_size_that_the_model_does_not_take(size: str, message: str) -> None:
    """The message names what it does take."""
    with pytest.raises(BadInputError, match=f"^size: {size}: model 'debug-diffusion' .*{message}"):
        resolve(request(size=size), CARD)


def test_a_model_of_another_kind() -> None:
    """A model that makes something else is no model for pictures."""
    with pytest.raises(BadInputError, match=r"^model: model 'm' is for text jobs, not image$"):
        resolve(request(), replace(CARD, name="m", kind="text"))


@pytest.mark.parametrize(
    "size",
    ["", "64", "64x", "x64", "64X64", "064x64", "0x64", "64x-8", " 64x64", "64x64\n", "٦٤x٦٤"],
)
def test_sizes_that_are_none(size: str) -> None:
    """A size is two whole numbers without signs, spaces or leading zeros."""
    with pytest.raises(ValueError, match="is not WIDTHxHEIGHT"):
        parse_size(size)


@given(st.integers(1, 99999), st.integers(1, 99999))
def test_sizes(width: int, height: int) -> None:
    """Width comes first."""
    assert parse_size(f"{width}x{height}") == (width, height)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": ""},
        {"prompt": "x" * 4001},
        {"prompt": "a\0"},
        {"prompt": "\ud800"},
        {"negative_prompt": "a\0"},
        {"model": ""},
        {"size": "big"},
        {"steps": 0},
        {"steps": 1001},
        {"steps": 2.5},
        {"guidance": -0.1},
        {"guidance": float("nan")},
        {"guidance": float("inf")},
        {"seed": -1},
        {"seed": MAX_SEED + 1},
        {"unknown": 1},
    ],
)
def test_requests_that_are_none(fields: Mapping[str, Any]) -> None:
    """Each field has its limits, and there is no other field."""
    with pytest.raises(ValidationError) as caught:
        request(**fields)
    assert [error["loc"] for error in caught.value.errors()] == [tuple(fields)]


def test_what_shares_a_batch() -> None:
    """Prompts, seeds and values equal to the defaults do not part jobs."""
    assert key(prompt="x", negative_prompt="y", seed=3) == key()
    assert key(size="128x128", steps=8, guidance=5) == key()


@pytest.mark.parametrize(
    "fields", [{"size": "64x128"}, {"size": "128x64"}, {"steps": 9}, {"guidance": 5.5}]
)
def test_what_parts_batches(fields: dict[str, Any]) -> None:
    """Whatever one call of the pipeline has only one of parts jobs."""
    assert key(**fields) != key()


def test_models_and_revisions_part_batches() -> None:
    """Other weights are another batch; what the card says beside them is not."""
    assert key(replace(CARD, revision="4")) != key()
    assert key(replace(CARD, name="other")) != key()
    assert key(replace(CARD, licence="MIT", pool="other")) == key()


def test_a_batch_key_is_stable() -> None:
    """Rows that were queued by an earlier version still meet their workers."""
    facts = (
        b'{"guidance":5.0,"kind":"image","model":"debug-diffusion@3","size":"128x128","steps":8}'
    )
    assert key() == hashlib.sha256(facts).hexdigest()[:32]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_text_can_be_stored(text: str) -> None:
    """Any other text is fine."""
    check_storable(text)


@pytest.mark.parametrize("text", ["\0", "a\0b", "\ud800", "a\udfff"])
def test_text_that_cannot_be_stored(text: str) -> None:
    """NUL and half surrogate pairs are refused before SQL sees them."""
    with pytest.raises(ValueError, match="holds "):
        check_storable(text)


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8")), min_size=1))
def test_derived_seeds(parts: list[str]) -> None:
    """A seed has 32 bits and is the same wherever it is computed."""
    assert derived_seed(*parts) == derived_seed(*parts)
    assert 0 <= derived_seed(*parts) < 2**32


def test_derived_seeds_differ() -> None:
    """Every part counts, and so does where one ends."""
    digest = hashlib.sha256(b"hero\x007").digest()
    assert derived_seed("hero", "7") == int.from_bytes(digest[:4], "big")
    assert len({derived_seed(*parts) for parts in (("ab", "c"), ("a", "bc"), ("abc",))}) == 3
