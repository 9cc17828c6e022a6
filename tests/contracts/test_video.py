"""Video models: the files they make, starting from a picture, and classes of many sorts."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import av
import pytest
import torch
from diffusers import DDPMScheduler

from jobs.kinds import KINDS
from jobs.kinds.video import VideoRequest
from storage.models import BUILT_IN, ModelCard
from tests.contracts import media, video_models
from tests.contracts.test_family import Loaded, Steps, difference
from workers.families.video.load import load
from workers.family import Device, Item, JobError, StopRequestedError
from workers.files import files_of
from workers.inputs import sample
from workers.registry import FAMILIES

# diffusers 0.42 hands torch tensors to numpy 2 in its schedulers.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CARD = BUILT_IN["debug-video"]
CPU = Device("cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where models are built, once a session."""
    return tmp_path_factory.getbasetemp() / "cache"


@pytest.fixture(scope="module")
def loaded(cache: Path) -> Loaded:
    """The debug model."""
    return Loaded(FAMILIES["video"], CARD, cache)


def test_the_file(loaded: Loaded) -> None:
    """It has the size, the frames and the pace that were asked for, and tells job and seed."""
    item = loaded.item(3, size="64x32", frames=17, fps=12, steps=1)
    ((output,),) = loaded.outputs([item])
    with av.open(BytesIO(output.data), "r") as container:
        (stream,) = container.streams
        assert stream.type == "video"
        video = container.streams.video[0]
        assert (video.width, video.height) == (64, 32)
        assert video.average_rate == 12
        assert (video.codec_context.name, video.pix_fmt) == ("h264", "yuv420p")
        assert len(list(container.decode(video))) == 17
        assert container.metadata["comment"] == (f"presswork:job {item.job_id} presswork:seed 3")
    assert output.facts["frames"] == 17
    assert output.facts["duration_s"] == 1.417
    assert "apple" not in str(output.facts)


def test_it_starts_from_the_picture(loaded: Loaded) -> None:
    """With the same words and seed, another picture or none makes another clip."""
    items = [loaded.item(1, image=image) for image in ("sample:apple.png", "sample:mug.png", None)]
    apple, mug, none = loaded.outputs(items)
    assert difference(apple, mug) > 0.1
    assert difference(apple, none) > 0.1
    (again,) = loaded.outputs([loaded.item(1, image="sample:apple.png")])
    assert difference(apple, again) == 0


def test_the_pace_is_told_to_the_model(loaded: Loaded) -> None:
    """A model that knows about frame rates is told the one that was asked for."""
    seen = []
    transformer = loaded.model.pipelines["text-to-video"].pipeline.transformer
    hook = transformer.register_forward_pre_hook(
        lambda _module, _positional, named: seen.append(named["rope_interpolation_scale"][0]),
        with_kwargs=True,
    )
    try:
        loaded.outputs([loaded.item(1, fps=30, steps=1)])
    finally:
        hook.remove()
    # Frames per latent frame over frames per second: how many seconds a latent frame is.
    assert seen == [8 / 30]


def item_for(card: ModelCard, seed: int = 1, **fields: Any) -> Item:
    """A request for that model, with all that it needs."""
    kind = KINDS["video"]
    picture = "image-to-video" in card.details.get("tasks", ())
    asked = {
        "model": card.name,
        "seed": seed,
        "prompt": "an apple" if card.details.get("prompt", True) else "",
        "image": "sample:apple.png" if picture else None,
        **fields,
    }
    request = kind.resolve(kind.Request.model_validate(asked), card)
    assert isinstance(request, VideoRequest)
    inputs = {"image": [sample(request.image.partition(":")[2])]} if request.image else {}
    return Item(uuid4(), request, inputs)


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_noise_between_steps_is_the_jobs_own(cache: Path, tmp_path: Path) -> None:
    """A scheduler that draws some draws it from the job's seed, also while it is listened to."""
    card = video_models.build("TextToVideoSDPipeline", cache, tmp_path)
    family = FAMILIES["video"]
    model = family.load(tmp_path, card, CPU)
    pipeline = model.pipelines["text-to-video"].pipeline
    pipeline.scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    item = item_for(card)
    made = []
    for other in (1, 2):
        torch.manual_seed(other)
        ((_, outputs),) = family.generate(model, [item], Steps())
        assert isinstance(outputs, list), outputs
        made.append(outputs)
    assert difference(*made) == 0


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
@pytest.mark.parametrize("name", video_models.NAMES)
def test_other_classes(name: str, cache: Path, tmp_path: Path) -> None:
    """Each runs by the names that its call has; seeds count, steps are told, and it can stop."""
    card = video_models.build(name, cache, tmp_path)
    family = FAMILIES["video"]
    model = family.load(tmp_path, card, CPU)
    made = {}
    for seed in (1, 2):
        context = Steps()
        item = item_for(card, seed)
        ((_, outputs),) = family.generate(model, [item], context)
        assert isinstance(outputs, list), outputs
        assert context.seen == [(1, 2), (2, 2)]
        assert outputs[0].facts["frames"] == card.details["default_frames"]
        assert outputs[0].facts["width"] == media.facts(outputs[0])["width"] == 32
        made[seed] = outputs
    assert difference(made[1], made[2]) > 0.02
    with pytest.raises(StopRequestedError):
        list(family.generate(model, [item_for(card)], Steps(last=1)))
    if "image-to-video" in card.details.get("tasks", ()):
        ((_, other),) = family.generate(model, [item_for(card, image="sample:mug.png")], Steps())
        assert isinstance(other, list)
        assert media.fingerprint(other) != media.fingerprint(made[1])
    family.unload(model)


def test_what_a_pipeline_does_not_take(cache: Path, tmp_path: Path) -> None:
    """A prompt that would be ignored fails its item, and the message says what to do."""
    card = video_models.build("StableVideoDiffusionPipeline", cache, tmp_path)
    able = replace(card, details={**card.details, "prompt": True})
    family = FAMILIES["video"]
    model = family.load(tmp_path, able, CPU)
    ((_, made),) = family.generate(model, [item_for(able, prompt="an apple")], Steps())
    message = f"model {card.name!r} takes no prompt; leave it out"
    assert made == JobError("unsupported", message, retry=False)


def test_frames_that_a_pipeline_rounds(loaded: Loaded) -> None:
    """A clip of another length than was asked for is an error, where the card did not know."""
    item = item_for(replace(CARD, details={}), size="64x32", frames=5, steps=1)
    ((_, made),) = FAMILIES["video"].generate(loaded.model, [item], Steps())
    assert isinstance(made, JobError)
    assert made.message.startswith("frames: model 'debug-video' made 1, not 5; ")


def test_a_card_that_promises_too_much(cache: Path, tmp_path: Path) -> None:
    """A task that the pipeline cannot do is told when it is loaded, not job by job."""
    card = video_models.build("StableVideoDiffusionPipeline", cache, tmp_path)
    false = replace(card, details={"tasks": ["text-to-video"]})
    with pytest.raises(ValueError, match="StableVideoDiffusionPipeline does no text-to-video"):
        load(tmp_path, false, CPU)


def test_a_model_for_pictures(cache: Path) -> None:
    """A pipeline that makes pictures is no video model."""
    files = files_of(BUILT_IN["debug-diffusion"], cache)
    with pytest.raises(ValueError, match="StableDiffusionControlNetPipeline makes no videos"):
        load(files, CARD, CPU)


def test_noise_is_drawn_on_the_cpu(loaded: Loaded) -> None:
    """What others draw meanwhile does not count."""
    (first,) = loaded.outputs([loaded.item(5)])
    torch.rand(7)
    (second,) = loaded.outputs([loaded.item(5)])
    assert difference(first, second) == 0
