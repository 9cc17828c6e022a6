"""The known pipelines of diffusers, tiny: batches, tasks, ControlNets, schedulers, prompts."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from jobs.kinds.image import ImageRequest, task_of
from jobs.kinds.image_details import KNOWN, TASKS, details_of
from storage.models import BUILT_IN
from tests.contracts import tiny_pipelines
from tests.contracts.pictures import (
    APPLE,
    EDGES,
    FAMILY,
    LEVEL,
    MASK,
    MUG,
    Models,
    apart,
    error_of,
    item,
    pictures,
    pixels,
    replaced,
    results,
    same_alone,
)
from tests.contracts.test_family import Steps
from workers.families.diffusion.capabilities import CAPABILITIES
from workers.families.diffusion.load import Loaded
from workers.families.diffusion.schedulers import SCHEDULERS
from workers.family import Device, Item, JobError
from workers.inputs import sample

# diffusers 0.42 hands torch tensors to numpy 2 in its schedulers.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
    # In diffusers itself, for what it imports from elsewhere in diffusers.
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning"),
]

KNOWN_CLASSES = list(tiny_pipelines.PIPELINES)
CONTROL_CLASSES = [
    name.replace("Pipeline", "ControlNetPipeline")
    for name in KNOWN_CLASSES
    if "control" in CAPABILITIES[name].tasks
]


@pytest.mark.parametrize("name", KNOWN_CLASSES)
def test_classes_that_batch(models: Models, name: str) -> None:
    """Text to image in batches as the table says, where nothing depends on one's mates."""
    model = models(name)
    assert FAMILY.max_batch(model) > 1
    items = [item(model, n, prompt="a mug" + " in red" * n) for n in range(3)]
    context = Steps()
    together = pictures(model, *items, context=context)
    assert context.seen == [(1, 2), (2, 2)]
    same_alone(model, items, together)
    assert together[0].shape == (32, 32, 3)
    reseeded, reworded = pictures(model, item(model, 5), item(model, 0, prompt="一杯 tea!"))
    assert apart(reseeded, together[0]) > LEVEL
    assert apart(reworded, together[0]) > 0


@pytest.mark.parametrize("name", KNOWN_CLASSES)
def test_the_table_says_what_the_source_says(
    models: Models, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What encode_prompt answers, which blocks repeat, and what cards are told of the class."""
    model = models(name)
    capabilities = CAPABILITIES[name]
    pipeline = model.pipeline
    answers = []
    encode = pipeline.encode_prompt

    def noting(*args: Any, **kwargs: Any) -> Any:
        answer = encode(*args, **kwargs)
        answers.append(len(answer))
        return answer

    monkeypatch.setattr(pipeline, "encode_prompt", noting)
    pictures(model, item(model))
    assert set(answers) == {capabilities.encodes}
    denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
    assert denoiser._repeated_blocks or capabilities.compiles != "blocks"  # noqa: SLF001
    arguments = model.siblings.get("text-to-image").arguments
    assert {capabilities.guidance, *capabilities.always} <= arguments.keys()
    known = KNOWN[name.removesuffix("Pipeline")]
    assert set(known.tasks) == set(capabilities.tasks)
    assert known.negative_prompt == capabilities.negative_prompt
    assert known.adapters is hasattr(pipeline, "load_lora_weights")
    assert set(known.schedulers) <= SCHEDULERS.keys()
    if known.max_sequence_length is not None:
        assert "max_sequence_length" in arguments
    assert all(hasattr(diffusers, sibling) for sibling in capabilities.tasks.values())


@pytest.mark.parametrize("name", KNOWN_CLASSES)
def test_starting_from_a_picture(models: Models, name: str) -> None:
    """Each job of a batch starts from its own picture, and what is not masked is kept."""
    model = models(name)
    if "inpaint" not in CAPABILITIES[name].tasks:
        assert error_of(model, _forced(model, image=MUG)).code == "unsupported"
        return
    for more in ({}, {"mask": MASK}):
        items = [item(model, 1, image=image, steps=4, **more) for image in (MUG, APPLE)]
        together = pictures(model, *items)
        same_alone(model, items, together)
        assert apart(*together) > LEVEL
        weak, strong = (
            pictures(model, item(model, 1, image=MUG, steps=4, strength=strength, **more))[0]
            for strength in (0.5, 1.0)
        )
        assert apart(weak, strong) > LEVEL
    # A sibling has the very weights that were loaded.
    assert model.siblings.get("inpaint").pipeline.vae is model.pipeline.vae
    original, mask = (_fitted(place) for place in (MUG, MASK))
    assert apart(together[0][mask == 0], original[mask == 0]) == 0
    assert apart(together[0][mask == 1], original[mask == 1]) > LEVEL


def _forced(model: Loaded, **fields: Any) -> Item:
    """A job that the model's card would have refused."""
    open_card = replace(model.card, details={"tasks": TASKS})
    return replace(item(model), request=item(replace(model, card=open_card), **fields).request)


def _fitted(place: str) -> NDArray[Any]:
    """A sample as the small job has it: masks have one level, pictures three."""
    with Image.open(BytesIO(sample(place.partition(":")[2]).data)) as image:
        mode = "L" if place == MASK else "RGB"
        method = Image.Resampling.BILINEAR if place == MASK else Image.Resampling.LANCZOS
        return np.asarray(ImageOps.fit(image.convert(mode), (32, 32), method)) / 255


@pytest.mark.parametrize("name", CONTROL_CLASSES)
def test_control(models: Models, name: str) -> None:
    """A ControlNet follows its picture, as strongly as is asked for, in every task that it has."""
    model = models(name)
    inputs = {
        "control": {},
        "control-image-to-image": {"image": MUG},
        "control-inpaint": {"image": MUG, "mask": MASK},
    }
    tasks = [task for task in model.capabilities.tasks if task in inputs]
    assert "control" in tasks
    for task in tasks:
        items = [item(model, 1, control=control, **inputs[task]) for control in (EDGES, APPLE)]
        assert _task(items[0]) == task
        same_alone(model, items, pictures(model, *items))
        edges, apple, weaker = (
            pictures(model, one)[0] for one in (*items, replaced(items[0], controlnet_scale=0.1))
        )
        assert apart(edges, apple) > 0
        assert apart(edges, weaker) > 0
    pictures(model, item(model))  # from text alone, without it


def _task(one: Item) -> str:
    assert isinstance(one.request, ImageRequest)
    return task_of(one.request)


def test_the_embedded_model(tmp_path: Path) -> None:
    """It does every task of its card."""
    card = BUILT_IN["debug-diffusion"]
    FAMILY.debug(tmp_path)
    model = FAMILY.load(tmp_path, card, Device("cpu"))
    starts: tuple[dict[str, Any], ...] = ({}, {"image": MUG}, {"image": MUG, "mask": MASK})
    items = [item(model, **start, control=control) for start in starts for control in (None, EDGES)]
    assert {_task(one) for one in items} == set(card.details["tasks"])
    for one in items:
        assert pictures(model, one)[0].shape == (32, 32, 3)


def test_a_model_without_a_controlnet(models: Models) -> None:
    """It says so, whatever its card says."""
    model = models("FluxPipeline")
    error = error_of(model, _forced(model, control=EDGES))
    assert error == JobError(
        "unsupported", "control: the model was saved without a ControlNet", retry=False
    )


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in KNOWN_CLASSES
        if name not in {"StableDiffusionXLPipeline", "PixArtSigmaPipeline"}
    ],
)
def test_schedulers(models: Models, name: str) -> None:
    """Each that a card names works, draws its noise from the jobs' own seeds, and is then gone."""
    model = models(name)
    (own,) = pictures(model, item(model, steps=4))
    for scheduler in details_of(name)["schedulers"]:
        one, two = (item(model, n, steps=4, scheduler=scheduler) for n in (1, 2))
        context = Steps()
        together = pictures(model, one, two, context=context)
        assert context.seen[-1][0] == context.seen[-1][1] >= 4
        assert apart(pictures(model, two)[0], together[1]) <= LEVEL, scheduler
    assert apart(pictures(model, item(model, steps=4))[0], own) == 0


def test_schedulers_differ(models: Models) -> None:
    """A name is not just accepted: no two of them give the same picture."""
    model = models("StableDiffusionPipeline")
    made = {
        name: pictures(model, item(model, steps=5, scheduler=name))[0].tobytes()
        for name in details_of("StableDiffusionPipeline")["schedulers"]
    }
    assert len(set(made.values())) == len(made)


def test_several_pictures_of_a_job(models: Models) -> None:
    """The n-th has the n-th seed from the job's own, and says so."""
    model = models("StableDiffusionPipeline")
    context = Steps()
    made = results(
        model, item(model, 7, num_images=3), item(model, 20, num_images=3), context=context
    )
    assert context.seen == [(1, 2), (2, 2)]
    for first, outputs in zip((7, 20), made, strict=True):
        assert isinstance(outputs, list)
        assert [output.facts["seed"] for output in outputs] == [first, first + 1, first + 2]
        (single,) = pictures(model, item(model, first + 2))
        assert apart(pixels(outputs[2]), single) <= LEVEL


def test_pictures_that_are_rejected(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a model's safety checker has blanked is no output, and is told."""
    model = models("StableDiffusionPipeline")

    def check(image: Any, _device: Any, _dtype: Any) -> Any:
        return image, [True, False, True, True]

    monkeypatch.setattr(model.pipeline, "run_safety_checker", check)
    some, none = results(model, *(item(model, n, num_images=2) for n in (1, 5)))
    assert isinstance(some, list)
    facts = [(output.facts["seed"], output.facts["pictures_rejected"]) for output in some]
    assert facts == [(2, 1)]
    assert isinstance(none, JobError)
    assert (none.code, none.retry) == ("content_rejected", False)


def test_a_job_that_memory_does_not_do_for(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pictures are made fewer at a time; of several jobs that is the runner's to decide."""
    model = models("StableDiffusionPipeline")
    forward = type(model.pipeline.unet).forward

    def forward_few(self: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if len(sample) > 4:  # two pictures, each with and without the prompt
            raise torch.OutOfMemoryError
        return forward(self, sample, *args, **kwargs)

    monkeypatch.setattr(type(model.pipeline.unet), "forward", forward_few)
    context = Steps()
    (made,) = results(model, item(model, num_images=5), context=context)
    assert isinstance(made, list)
    assert [output.facts["seed"] for output in made] == [1, 2, 3, 4, 5]
    assert context.seen[-1][0] == context.seen[-1][1]
    with pytest.raises(torch.OutOfMemoryError):
        pictures(model, *(item(model, n) for n in range(3)))


@pytest.mark.parametrize("name", ["StableDiffusionXLPipeline", "QwenImagePipeline"])
def test_negative_prompts(models: Models, name: str) -> None:
    """They make a difference to the job that has one, and none to its mates."""
    model = models(name)
    plain, against = item(model), item(model, negative_prompt="blue, blurred")
    together = pictures(model, plain, against)
    same_alone(model, [plain, against], together)
    alone = [pictures(model, one)[0] for one in (plain, against, replaced(plain, guidance=1.0))]
    assert apart(alone[0], alone[1]) > 0
    assert apart(alone[0], alone[2]) > 0


def test_calls_of_few_sizes(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that is parted by its negative prompts has parts that are filled up again."""
    model = models("StableDiffusionPipeline")
    sizes = []
    forward = type(model.pipeline.unet).forward

    def noting(self: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        sizes.append(len(sample) // 2)  # each with and without its prompt
        return forward(self, sample, *args, **kwargs)

    monkeypatch.setattr(type(model.pipeline.unet), "forward", noting)
    items = [item(model, n, negative_prompt="blue" * (n > 2), num_images=2) for n in range(8)]
    made = results(model, *items)
    assert set(sizes) == {8, 16}  # three jobs as four, five as eight, of two pictures each
    for one, outputs in zip(items, made, strict=True):
        assert isinstance(outputs, list)
        assert [output.facts["seed"] for output in outputs] == [one.seed, one.seed + 1]


def test_a_model_without_negative_prompts(models: Models) -> None:
    """The job is told, its mates are not harmed."""
    model = models("FluxPipeline")
    made = results(model, item(model), _forced(model, negative_prompt="blue"))
    assert isinstance(made[0], list)
    assert made[1] == JobError(
        "unsupported", "model 'FluxPipeline' takes no negative_prompt; leave it out", retry=False
    )


@pytest.mark.parametrize(
    ("name", "length", "fields", "cut"),
    [
        ("StableDiffusionPipeline", 100, {}, 25),  # 77 positions, two of them for its ends
        ("FluxPipeline", 100, {}, 0),
        ("FluxPipeline", 520, {}, 10),  # two more: one ahead of the first word, one for its end
        ("FluxPipeline", 100, {"max_sequence_length": 90}, 12),
        ("ZImagePipeline", 100, {"max_sequence_length": 90}, 13),  # and three ahead of it
        ("QwenImagePipeline", 100, {"max_sequence_length": 90}, 10),
    ],
)
def test_prompts_that_are_cut(
    models: Models, name: str, length: int, fields: dict[str, Any], cut: int
) -> None:
    """What was not read leaves a trace, and really was not read."""
    model = models(name)
    made = []
    for end in "a", "b":
        (outputs,) = results(model, item(model, prompt="x" * (length - 1) + end, **fields))
        assert isinstance(outputs, list)
        assert outputs[0].facts["prompt_tokens_cut"] == cut
        made.append(pixels(outputs[0]))
    assert (apart(*made) == 0) is (cut > 0)
