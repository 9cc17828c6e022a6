"""Pictures in every format and at every size that may be asked for, on the debug models."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from uuid import UUID, uuid4

import numpy as np
import pytest
from PIL import ExifTags, Image

from jobs.kinds import KINDS
from storage.models import BUILT_IN
from tests.contracts import media
from tests.contracts.pictures import Models, apart, item, pictures, pixels, results
from tests.contracts.test_family import Loaded
from workers.encoding import JPEG_QUALITY, WEBP_QUALITY, picture_output
from workers.families.diffusion.load import Loaded as Diffusion
from workers.family import Output
from workers.inputs import sample
from workers.pictures import covering, covering_mask
from workers.registry import FAMILIES

pytestmark = [
    # diffusers 0.42 hands torch tensors to numpy 2 in its schedulers.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

QUALITIES = {"png": None, "webp": WEBP_QUALITY, "jpeg": JPEG_QUALITY}
SIZES = ("32x32", "64x32")
MASKED = {"image": "sample:mug.png", "mask": "sample:mask.png"}


@pytest.mark.parametrize("name", ["debug-diffusion", "debug-gan", "debug-vae"])
def test_formats(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Jobs of every format share a call, and each says its format, its job and its seed."""
    card = BUILT_IN[name]
    cache: Path = tmp_path_factory.getbasetemp() / "cache"
    loaded = Loaded(FAMILIES[card.family], card, cache)
    made = loaded.outputs([loaded.item(7, format=format_) for format_ in QUALITIES])
    for (format_, quality), (output,) in zip(QUALITIES.items(), made, strict=True):
        assert output.media_type == f"image/{format_}"
        assert media.medium(output) == "picture"
        assert (output.facts["format"], output.facts.get("encoded_quality")) == (format_, quality)
        assert media.facts(output).items() <= output.facts.items()
    keys = {
        loaded.kind.batch_key(loaded.item(7, format=format_).request, card) for format_ in QUALITIES
    }
    assert len(keys) == 1


@pytest.mark.parametrize("format_", QUALITIES)
def test_where_a_picture_comes_from(format_: str) -> None:
    """Its file says job and seed, and nothing else; it looks as it was made."""
    job_id = uuid4()
    drawn = Image.linear_gradient("L").convert("RGB")
    output = _encoded(drawn, format_, job_id)
    with Image.open(BytesIO(output.data)) as image:
        if format_ == "png":
            assert image.info == {
                "Software": "Presswork",
                "presswork:job": str(job_id),
                "presswork:seed": "7",
            }
        else:
            exif = image.getexif()
            more = exif.get_ifd(ExifTags.IFD.Exif)
            assert exif[ExifTags.Base.Software] == "Presswork"
            comment = f"presswork:job={job_id} presswork:seed=7".encode()
            assert more == {ExifTags.Base.UserComment: b"ASCII\0\0\0" + comment}
        apart_by = np.abs(np.asarray(image.convert("RGB"), int) - np.asarray(drawn, int))
    assert apart_by.max() <= (0 if format_ == "png" else 4)


def test_transparent_pictures() -> None:
    """JPEG shows them on white, the others keep them as they are."""
    clear = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    for format_ in QUALITIES:
        with Image.open(BytesIO(_encoded(clear, format_, uuid4()).data)) as image:
            mode, pixel = image.mode, image.getpixel((4, 4))
        assert mode == ("RGB" if format_ == "jpeg" else "RGBA")
        assert isinstance(pixel, tuple)
        assert pixel == (255, 255, 255) if format_ == "jpeg" else pixel[3] == 0


@pytest.mark.parametrize("format_", QUALITIES)
def test_how_it_was_made_is_not_overwritten(format_: str) -> None:
    """A picture that was made with less quality says so in every format."""
    facts = {"quality": "draft"}
    output = picture_output(
        lambda: Image.new("RGB", (8, 8)), format_, job_id=uuid4(), seed=7, facts=facts
    )
    assert output.facts["quality"] == "draft"


def _encoded(image: Image.Image, format_: str, job_id: UUID) -> Output:
    return picture_output(lambda: image, format_, job_id=job_id, seed=7, facts={})


@pytest.fixture
def bucketed(models: Models) -> Diffusion:
    """A model that runs at two sizes only."""
    model = models("StableDiffusionPipeline")
    return replace(
        model, card=replace(model.card, details={**model.card.details, "sizes": list(SIZES)})
    )


def test_sizes_that_share_a_call(bucketed: Diffusion) -> None:
    """Each picture is the model's own, scaled and cropped to exactly what was asked for."""
    asked = ("32x32", "50x44", "30x31")
    items = [item(bucketed, 1, size=size) for size in asked]
    keys = {KINDS["image"].batch_key(one.request, bucketed.card) for one in items}
    assert len(keys) == 1
    made = results(bucketed, *items)
    own = None
    for size, outputs in zip(asked, made, strict=True):
        assert isinstance(outputs, list)
        facts = outputs[0].facts
        assert f"{facts['width']}x{facts['height']}" == size
        assert facts.get("made_size") == (None if size == "32x32" else "32x32")
        assert media.facts(outputs[0]).items() <= facts.items()
        levels = pixels(outputs[0])
        own = levels if own is None else own
        assert np.abs(levels.mean((0, 1)) - own.mean((0, 1))).max() < 0.1
    wide = item(bucketed, 1, size="40x20")
    assert pictures(bucketed, wide)[0].shape == (20, 40, 3)
    assert KINDS["image"].batch_key(wide.request, bucketed.card) not in keys


def test_masks_at_another_size(bucketed: Diffusion) -> None:
    """What is not masked is the start picture at the size asked for, by the crop of the model."""
    (made,) = pictures(bucketed, item(bucketed, 1, size="44x40", steps=4, **MASKED))
    mug, mask = (sample(place.partition(":")[2]) for place in MASKED.values())
    size, at = (44, 40), (32, 32)
    original = np.asarray(covering(mug, size, within=at)) / 255
    black = np.asarray(covering_mask(mask, size, within=at)) == 0
    assert apart(made[black], original[black]) == 0
    assert apart(made[~black], original[~black]) > 0.1


def test_cropping_twice_is_cropping_once() -> None:
    """A crop within a crop is where the model's own, scaled, would show it."""
    image = Image.linear_gradient("L").resize((300, 100)).convert("RGB")
    buffer = BytesIO()
    image.save(buffer, "PNG")
    given = replace(sample("mug.png"), data=buffer.getvalue())
    once = covering(given, (120, 100), within=(128, 128))
    twice = covering(replace(given, data=_png(covering(given, (128, 128)))), (120, 100))
    assert np.abs(np.asarray(once, int) - np.asarray(twice, int)).max() <= 3


def _png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_nothing_is_encoded_for_padding(bucketed: Diffusion) -> None:
    """A picture becomes a file when somebody asks for it, who never asks for padding."""
    ((outputs,)) = results(bucketed, item(bucketed, 1))
    assert isinstance(outputs, list)
    assert callable(outputs[0].content)
