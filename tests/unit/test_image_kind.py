"""The image kind: what a request starts from, what a card refuses, what parts batches."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from jobs.campaigns.creatives import compile_campaign
from jobs.campaigns.file import from_mapping
from jobs.kinds.image import IMAGE, ImageRequest, resolve, task_of
from jobs.kinds.image_details import KNOWN, TASKS, ImageDetails, details_of
from jobs.kinds.values import AdapterUse, read_details
from jobs.problems import BadInputError
from storage.models import BUILT_IN, ModelCard

CARD = BUILT_IN["debug-diffusion"]
MUG: dict[str, Any] = {"image": "sample:mug.png"}
MASKED: dict[str, Any] = {**MUG, "mask": "sample:mask.png"}
EDGES: dict[str, Any] = {"control": "sample:edges.png"}


def request(**fields: Any) -> ImageRequest:
    """A request for a picture."""
    return ImageRequest.model_validate({"prompt": "a mug", **fields})


def key(card: ModelCard = CARD, **fields: Any) -> str:
    """The batch key of a request."""
    return IMAGE.batch_key(resolve(request(**fields), card), card)


def card(**can: Any) -> ModelCard:
    """A model with these details and no others."""
    return replace(CARD, name="m", details=can)


@pytest.mark.parametrize(
    ("fields", "task", "strength", "scale"),
    [
        ({}, "text-to-image", None, None),
        (MUG, "image-to-image", 0.6, None),
        (MASKED, "inpaint", 1.0, None),
        (EDGES, "control", None, 1.0),
        ({**MUG, **EDGES}, "control-image-to-image", 0.6, 1.0),
        ({**MASKED, **EDGES}, "control-inpaint", 1.0, 1.0),
        ({**MUG, "steps": 1}, "image-to-image", 1.0, None),
        ({**MUG, "strength": 0.25}, "image-to-image", 0.25, None),
        ({**EDGES, "controlnet_scale": 0}, "control", None, 0),
    ],
)
def test_the_task_follows_from_the_inputs(
    fields: Mapping[str, Any], task: str, strength: float | None, scale: float | None
) -> None:
    """So does what is filled in: half a step is never what is left of them."""
    resolved = resolve(request(**fields), CARD)
    assert (task_of(resolved), resolved.strength) == (task, strength)
    assert resolved.controlnet_scale == scale
    assert resolve(resolved, CARD) == resolved


@pytest.mark.parametrize(
    ("can", "fields", "message"),
    [
        ({}, {"mask": "m.png"}, "mask: needs an image, the picture that is repainted; give both"),
        ({}, MUG, "image: model 'm' does no image-to-image, only text-to-image"),
        (
            {"tasks": ["text-to-image", "control"]},
            {**MUG, **EDGES},
            "control: model 'm' does no control-image-to-image, only text-to-image, control",
        ),
        ({"tasks": ["image-to-image"]}, {}, "image: model 'm' needs it, for image-to-image"),
        ({"tasks": ["inpaint"]}, {}, "mask: model 'm' needs it, for inpaint"),
        ({}, {"strength": 0.5}, "strength: is about a start picture: give an image, or leave it"),
        (
            {"tasks": TASKS, "strength": False},
            {**MUG, "strength": 0.5},
            "strength: model 'm' takes none; leave it out",
        ),
        (
            {"tasks": TASKS},
            {**MUG, "strength": 0.1, "steps": 9},
            "strength: 0.1 of 9 steps is less than one step: raise it, or take more steps",
        ),
        ({}, {"controlnet_scale": 1}, "controlnet_scale: is about control: give one, or leave it"),
        ({}, {"scheduler": "euler"}, "scheduler: model 'm' takes no 'euler'; leave it out"),
        (
            {"schedulers": ["euler-a", "ddim"]},
            {"scheduler": "euler_a"},
            "scheduler: model 'm' takes no 'euler_a'; did you mean 'euler-a'?",
        ),
        (
            {"schedulers": ["lcm"]},
            {"scheduler": "lcm", "steps": 51},
            "steps: lcm takes at most 50, and needs 4 to 8",
        ),
        (
            {"negative_prompt": False},
            {"negative_prompt": "blue"},
            "negative_prompt: model 'm' takes none; leave it out",
        ),
        (
            {"adapters": False},
            {"adapters": [{"name": "style"}]},
            "adapters: model 'm' takes none; leave them out",
        ),
        (
            {},
            {"adapters": [{"name": "a"}, {"name": "b"}, {"name": "a", "weight": 0.5}]},
            "adapters[2].name: 'a' is there already; give each adapter once",
        ),
        ({}, {"max_sequence_length": 9}, "max_sequence_length: model 'm' has no choice of it"),
        (
            {"max_sequence_length": 256},
            {"max_sequence_length": 257},
            "max_sequence_length: model 'm' takes at most 256",
        ),
        (
            {"tasks": ["painting"]},
            {},
            "model: the card of model 'm' is wrong: details.tasks[0]: ",
        ),
    ],
)
def test_what_a_model_cannot_do(
    can: Mapping[str, Any], fields: Mapping[str, Any], message: str
) -> None:
    """It is refused at submit; the problem names the field and says what to do."""
    with pytest.raises(BadInputError) as caught:
        resolve(request(**fields), card(**can))
    assert str(caught.value).startswith(message)


def test_every_problem_is_told_at_once() -> None:
    """Who repairs one does not find the next."""
    with pytest.raises(BadInputError) as caught:
        resolve(request(**MUG, scheduler="x", negative_prompt="y"), card(negative_prompt=False))
    assert [problem.field for problem in caught.value.problems] == [
        "image",
        "scheduler",
        "negative_prompt",
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"image": "https://example.com/a.png"},
        {"mask": "../a.png"},
        {"control": ""},
        {"strength": 0},
        {"strength": 1.01},
        {"controlnet_scale": -1},
        {"scheduler": ""},
        {"max_sequence_length": 0},
        {"num_images": 0},
        {"num_images": 9},
        {"adapters": [{"name": f"a{n}"} for n in range(9)]},
        {"adapters": [{"name": "a", "weight": 5}]},
    ],
)
def test_values_that_are_none(fields: Mapping[str, Any]) -> None:
    """Each field has its limits."""
    with pytest.raises(ValidationError) as caught:
        request(**fields)
    assert {error["loc"][0] for error in caught.value.errors()} == set(fields)


@pytest.mark.parametrize(
    "fields",
    [
        MUG,
        MASKED,
        EDGES,
        {"scheduler": "euler"},
        {"num_images": 2},
        {"adapters": [{"name": "a"}]},
    ],
)
def test_what_parts_batches(fields: Mapping[str, Any]) -> None:
    """Whatever one call has only one of, and a plain picture has not."""
    assert key(**fields) != key()


def test_values_part_batches_and_pictures_do_not() -> None:
    """Strengths, scales and weights count; which pictures are started from does not."""
    assert key(**MUG) == key(image="photos/cup.png") == key(**MUG, strength=0.6)
    assert key(**MUG) != key(**MUG, strength=0.7)
    assert key(**EDGES) != key(**EDGES, controlnet_scale=0.5)
    light, heavy = ([{"name": "a", "weight": weight}] for weight in (0.5, 1))
    assert key(adapters=light) != key(adapters=heavy)
    flux = card(max_sequence_length=512)
    assert key(flux, max_sequence_length=256) != key(flux)


def test_adapters_are_told_to_the_runner() -> None:
    """Under the name that every kind has for them."""
    uses = request(adapters=[{"name": "a"}, {"name": "b", "weight": -0.5}]).uses
    assert uses == (AdapterUse(name="a"), AdapterUse(name="b", weight=-0.5))


def test_a_campaign_writes_pictures_as_templates() -> None:
    """The task is known before any row is, and with it the batch."""
    creative = {"name": "hero", "prompt": "a {{ p }}", "image": "photos/{{ p }}.png"}
    fields = {"name": "Spring", "recipients": {"id": "id"}, "creatives": [creative]}
    (compiled,) = compile_campaign(from_mapping(fields), BUILT_IN)
    assert compiled.batch_key == key(**MUG)


def test_details_by_pipeline_class() -> None:
    """A model has what its class does; control only where a ControlNet was saved with it."""
    plain = ["text-to-image", "image-to-image", "inpaint"]
    assert details_of("StableDiffusionXLPipeline")["tasks"] == plain
    assert details_of("StableDiffusionXLImg2ImgPipeline")["tasks"] == plain
    assert details_of("StableDiffusionInpaintPipeline")["tasks"] == ["inpaint"]
    assert details_of("FluxControlNetInpaintPipeline")["tasks"] == ["inpaint", "control-inpaint"]
    assert details_of("StableDiffusion3ControlNetPipeline")["tasks"] == [*plain, "control"]
    assert details_of("KandinskyPipeline") == {}
    debug = details_of("StableDiffusionControlNetPipeline")
    assert {name: debug[name] for name in CARD.details} == CARD.details
    for name, known in KNOWN.items():
        everything = read_details(card(**details_of(f"{name}ControlNetPipeline")), ImageDetails)
        assert everything == known
