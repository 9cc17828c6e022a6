"""Slideshows as files: their length, their sound, their motion, and what is written on them."""

from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from jobs.kinds import KINDS
from storage.models import BUILT_IN
from tests.contracts.test_family import Loaded, Steps
from workers.family import Input, Item, JobError, Output, StopRequestedError
from workers.film import SOUND_RATE_HZ, decode_sound
from workers.inputs import sample
from workers.registry import FAMILIES

KIND = KINDS["slideshow"]
CARD = BUILT_IN["slideshow"]
SIZE = (96, 64)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """The family, ready."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    return Loaded(FAMILIES["slideshow"], CARD, cache)


def picture(left: str, right: str = "", size: tuple[int, int] = SIZE) -> Input:
    """A picture with a left and a right half."""
    image = Image.new("RGB", size, left)
    if right:
        image.paste(right, (size[0] // 2, 0, *size))
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return Input(buffer.getvalue(), "image/png", "0" * 64)


def wave(seconds: float, rate_hz: int = 22_050) -> Input:
    """A tone as a WAV file."""
    buffer = BytesIO()
    with av.open(buffer, "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=rate_hz, layout="mono")
        times = np.arange(round(seconds * rate_hz)) / rate_hz
        tone = (np.sin(times * 2 * np.pi * 220) * 9000).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
        frame.sample_rate = rate_hz
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return Input(buffer.getvalue(), "audio/wav", "0" * 64)


def film(
    loaded: Loaded,
    pictures: list[Input],
    voice: Input | None = None,
    *,
    text: bytes | None = None,
    job_id: UUID | None = None,
    **fields: Any,
) -> list[Output] | JobError:
    """What became of one request."""
    request = KIND.Request.model_validate(
        {
            "pictures": ["sample:mug.png"] * len(pictures),
            "voice": "sample:voice.mp3" if voice else None,
            "headline_from": "creative:words" if text else None,
            "size": f"{SIZE[0]}x{SIZE[1]}",
            "fps": 10,
            "seed": 1,
            **fields,
        }
    )
    inputs = {"pictures": pictures}
    if voice:
        inputs["voice"] = [voice]
    if text is not None:
        inputs["headline_from"] = [Input(text, "text/plain; charset=utf-8", "0" * 64)]
    item = Item(job_id or uuid4(), KIND.resolve(request, CARD), inputs)
    ((index, made),) = loaded.family.generate(loaded.model, [item], Steps())
    assert index == 0
    return made


def one(made: list[Output] | JobError) -> Output:
    """The only output."""
    assert isinstance(made, list), made
    (output,) = made
    return output


def frames(output: Output) -> list[NDArray[np.int16]]:
    """The frames, as a player shows them."""
    with av.open(BytesIO(output.data), "r") as container:
        decoded = container.decode(video=0)
        return [frame.to_ndarray(format="rgb24").astype(np.int16) for frame in decoded]


@pytest.mark.parametrize("seconds", [0.73, 2.05])
@pytest.mark.parametrize("fps", [10, 24])
def test_as_long_as_the_voice(loaded: Loaded, seconds: float, fps: int) -> None:
    """Picture and sound end with the voice, within a frame and within 50 ms of each other."""
    output = one(film(loaded, [picture("red"), picture("blue")], wave(seconds), fps=fps))
    with av.open(BytesIO(output.data), "r") as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        lengths = [float(s.duration * s.time_base) for s in (video, audio)]  # type: ignore[operator]
        assert abs(lengths[0] - seconds) <= 1 / fps
        assert abs(lengths[1] - seconds) <= 0.001
        assert abs(lengths[0] - lengths[1]) <= 0.05
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        assert video.pix_fmt == "yuv420p"
        assert video.average_rate == fps
        assert (video.width, video.height) == SIZE
        assert audio.rate == SOUND_RATE_HZ
    assert len(frames(output)) == output.facts["frames"] == round(seconds * fps)
    # The index comes first, so that it plays while it is loaded.
    assert output.data.find(b"moov") < output.data.find(b"mdat")


def test_the_voice_is_heard(loaded: Loaded) -> None:
    """What comes out of the film is what went in, not noise and not silence."""
    voice = sample("voice.mp3")
    output = one(film(loaded, [picture("red")], voice))
    before, after = (decode_sound(file.data).samples for file in (voice, output))
    length = min(before.shape[1], after.shape[1])
    both = np.corrcoef(before[0, :length], after[0, :length])
    assert both[0, 1] > 0.98


def test_without_a_voice(loaded: Loaded) -> None:
    """Each picture has its seconds, and there is no sound."""
    output = one(film(loaded, [picture("red"), picture("blue")], seconds=0.5))
    with av.open(BytesIO(output.data)) as container:
        assert not container.streams.audio
    assert len(frames(output)) == 10
    assert output.facts["duration_s"] == 1


def test_pictures_follow_each_other(loaded: Loaded) -> None:
    """Each has its share, colours are right, and one is faded into the next."""
    shown = frames(
        one(film(loaded, [picture("#C02020"), picture("#2020C0")], seconds=1, crossfade=0.4))
    )
    middles = [frame[32, 48] for frame in shown]
    assert np.abs(middles[0] - [192, 32, 32]).max() <= 4
    assert np.abs(middles[-1] - [32, 32, 192]).max() <= 4
    mixed = [n for n, colour in enumerate(middles) if min(colour[0], colour[2]) > 38]
    assert mixed == [8, 9, 10, 11]


@pytest.mark.parametrize("motion", ["zoom-in", "pan-left"])
def test_pictures_move(loaded: Loaded, motion: str) -> None:
    """With a motion the frames change from first to last; without one they do not."""
    drawn = [sample("apple.png")]
    moving = frames(one(film(loaded, drawn, seconds=1, motion=motion)))
    still = frames(one(film(loaded, drawn, seconds=1, motion="none")))
    assert np.abs(moving[-1] - moving[0]).mean() > 3 * np.abs(still[-1] - still[0]).mean()
    assert np.abs(moving[-1] - moving[0]).max() > 60


def test_the_view_goes_where_the_pan_says(loaded: Loaded) -> None:
    """A pan to the left shows more of the left half at its end."""
    halves = [picture("black", "white", (200, 64))]
    shown = frames(one(film(loaded, halves, seconds=1, motion="pan-left")))
    assert shown[-1].mean() < shown[0].mean() - 20


@pytest.mark.parametrize("text", ["Fresh", "Fresh apples today, at a very good price"])
@pytest.mark.parametrize("position", ["top", "bottom"])
def test_the_headline_is_drawn(loaded: Loaded, text: str, position: str) -> None:
    """There is light ink on a dark band where it belongs, and none without a headline."""
    fields: dict[str, Any] = {"seconds": 0.5, "position": position, "size": "160x120"}
    with_text = frames(one(film(loaded, [picture("#204080")], headline=text, **fields)))[0]
    without = frames(one(film(loaded, [picture("#204080")], **fields)))[0]
    half = slice(0, 60) if position == "top" else slice(60, 120)
    assert (with_text[half].min(axis=2) > 180).sum() > 30
    assert (without.min(axis=2) > 180).sum() == 0
    far = slice(-15, None) if position == "top" else slice(0, 15)
    assert np.abs(with_text[far] - without[far]).max() <= 6


def test_the_headline_of_another_job(loaded: Loaded) -> None:
    """What a text job wrote is drawn as if it stood in the request."""
    job_id = uuid4()
    same: dict[str, Any] = {"seconds": 0.5, "size": "160x120"}
    written = film(loaded, [picture("navy")], text="Fr\u00e9sh\n".encode(), job_id=job_id, **same)
    said = film(loaded, [picture("navy")], headline="Fr\u00e9sh", job_id=job_id, **same)
    if isinstance(said, JobError):  # a machine without fonts
        assert isinstance(written, JobError)
        assert written.code == said.code
    else:
        assert one(written).data == one(said).data


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"headline": "\U00012000\U0001e900"}, "no_font"),
        ({"headline": "\u0007"}, "no_headline"),
        ({"text": b" \n"}, "no_headline"),
        ({"text": b"word " * 500}, "headline_too_long"),
        ({"voice": Input(b"no sound", "audio/wav", "")}, "bad_sound"),
        ({"voice": wave(0.1)}, "voice_too_short"),
    ],
)
def test_what_cannot_be_shown(loaded: Loaded, fields: dict[str, Any], code: str) -> None:
    """An input at fault fails its item for good, and the message names the field."""
    made = film(loaded, [picture("red")], **fields)
    assert isinstance(made, JobError)
    assert made.code == code
    assert not made.retry
    named = {"text": "headline_from"}.get(next(iter(fields)), next(iter(fields)))
    assert made.message.startswith(f"{named}: ")


def test_emoji_are_left_out_and_told(loaded: Loaded) -> None:
    """The facts say how many characters are missing, and no fact repeats the headline."""
    output = one(
        film(loaded, [picture("red")], seconds=0.5, headline="Apples \U0001fae8\U0001fae8")
    )
    assert output.facts["headline_characters_dropped"] == 2
    assert "Apples" not in str(output.facts)
    assert b"Apples" not in output.data


def test_the_same_again(loaded: Loaded) -> None:
    """The same job gives the same bytes."""
    job_id = uuid4()
    made = [
        one(film(loaded, [sample("apple.png"), sample("mug.png")], wave(2), job_id=job_id)).data
        for _ in range(3)
    ]
    assert made[0] == made[1] == made[2]
    assert str(job_id).encode() in made[0]


def test_transparent_pictures_stand_on_white(loaded: Loaded) -> None:
    """What is transparent is white, not black."""
    buffer = BytesIO()
    Image.new("RGBA", SIZE, (0, 0, 0, 0)).save(buffer, "PNG")
    clear = Input(buffer.getvalue(), "image/png", "0" * 64)
    assert frames(one(film(loaded, [clear], seconds=0.5)))[0].min() > 250


def test_nothing_is_left_behind(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A film that is stopped half way leaves no file."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(StopRequestedError):
        loaded.outputs([loaded.item(1)], Steps(last=2))
    assert not list(tmp_path.iterdir())
