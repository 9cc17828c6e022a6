"""The image kind: what a request starts from, what a card refuses, what parts batches."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from jobs.campaigns.creatives import compile_campaign
from jobs.campaigns.file import from_mapping
from jobs.kinds import KINDS
from jobs.kinds.image import IMAGE, ImageRequest, resolve, task_of
from jobs.kinds.image_details import KNOWN, TASKS, ImageDetails, details_of
from jobs.kinds.sizes import size_to_make
from jobs.kinds.values import AdapterUse, read_details
from jobs.problems import BadInputError, from_validation
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
        {"quality": "high"},
        {"quality": "draft"},
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


def test_a_quality_is_chosen_by_name() -> None:
    """Each has its batches, exact is what it was without the field, and others are refused."""
    assert key(quality="exact") == key()
    assert "quality" not in IMAGE.batch_facts(resolve(request(), CARD))
    assert len({key(quality=level, steps=8) for level in ("exact", "high", "draft")}) == 3
    with pytest.raises(ValidationError) as caught:
        request(quality="best")
    (problem,) = from_validation(caught.value, ImageRequest)
    assert str(problem) == "quality: Input should be 'exact', 'high' or 'draft'"


def test_a_draft_has_half_of_the_steps() -> None:
    """Of the model's usual ones, and as many as are asked for where they are."""
    drafts = [resolve(request(quality="draft", steps=steps), CARD) for steps in (None, 8)]
    assert [draft.steps for draft in drafts] == [CARD.default_steps / 2, 8]
    assert resolve(drafts[0], CARD) == drafts[0]
    assert resolve(request(quality="draft"), replace(CARD, default_steps=1)).steps == 1


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


SIZES = ("1024x1024", "512x512", "1152x896", "896x1152", "1024x576", "512x288")


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        ("512x512", "512x512"),  # one of them
        ("300x300", "512x512"),  # the smallest that need not be enlarged
        ("600x600", "1024x1024"),
        ("2000x2000", "1024x1024"),  # none is large enough
        ("1200x900", "1152x896"),  # the nearest in proportions
        ("900x1200", "896x1152"),
        ("600x338", "1024x576"),
        ("500x281", "512x288"),
        ("728x90", "1024x576"),
    ],
)
def test_the_size_that_a_model_runs_at(asked: str, made: str) -> None:
    """By proportions first, then by what need not be enlarged."""
    assert size_to_make(asked, SIZES) == made
    assert size_to_make(asked, ()) == asked


def test_sizes_of_a_card() -> None:
    """Those that are made alike share a batch, whatever their sides are multiples of."""
    sized = card(sizes=["256x256", "384x128"])
    keys = {size: key(sized, size=size) for size in ("256x256", "200x201", "3x3", "301x99")}
    assert keys["256x256"] == keys["200x201"] == keys["3x3"]
    assert keys["301x99"] == key(sized, size="384x128") != keys["3x3"]
    assert resolve(request(size="200x201"), sized).size == "200x201"
    assert key(size="256x256") == key(replace(sized, name=CARD.name), size="200x201")


@pytest.mark.parametrize(
    ("sizes", "asked", "message"),
    [
        (["256x256"], "520x100", "size: 520x100: model 'm' takes at most 512 px a side"),
        (["250x256"], "64x64", "size: 250x256: model 'm' takes sides that are multiples of 8"),
        (["1024x1024"], "64x64", "size: 1024x1024: model 'm' takes at most 512 px a side"),
        (["big"], "64x64", "model: the card of model 'm' is wrong: details.sizes[0]: "),
    ],
)
def test_sizes_that_no_model_has(sizes: list[str], asked: str, message: str) -> None:
    """A card that names one is refused with it, and a job that is too large for any."""
    with pytest.raises(BadInputError) as caught:
        resolve(request(size=asked), card(sizes=sizes))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("kind", ["image", "gan", "vae"])
def test_formats(kind: str) -> None:
    """PNG unless something else is asked for, which no batch is parted by."""
    example = KINDS[kind].example
    card = BUILT_IN[KINDS[kind].default_model]
    keys = set()
    for format_ in ("png", "webp", "jpeg"):
        wanted = KINDS[kind].Request.model_validate({**example, "format": format_})
        keys.add(KINDS[kind].batch_key(KINDS[kind].resolve(wanted, card), card))
    assert len(keys) == 1
    plain: Any = KINDS[kind].Request.model_validate(example)
    assert plain.format == "png"
    with pytest.raises(ValidationError, match="'png', 'webp' or 'jpeg'"):
        KINDS[kind].Request.model_validate({**example, "format": "gif"})
