"""MP4 files: the same bytes every time, true colours, and sound of any sort."""

from collections.abc import Iterator
from io import BytesIO
from uuid import UUID

import av
import numpy as np
import pytest

from workers.film import Frame, Sound, decode_sound, encode_film

JOB_ID = UUID(int=1)


def moving(count: int, width: int, height: int) -> Iterator[Frame]:
    """A gradient on its way to the upper left."""
    down, across = np.mgrid[0:height, 0:width]
    for number in range(count):
        planes = [across + 2 * number, down + number, across + down]
        yield (np.stack(planes, axis=-1) % 256).astype(np.uint8)


def test_the_same_bytes() -> None:
    """Encoders with threads and uninitialised memory would differ from time to time."""
    films = {
        encode_film(moving(60, 320, 320), size=(320, 320), fps=30, job_id=JOB_ID, seed=1)
        for _ in range(5)
    }
    assert len(films) == 1


@pytest.mark.parametrize("colour", [(200, 30, 20), (20, 160, 60), (30, 60, 200), (255, 255, 255)])
def test_colours(colour: tuple[int, int, int]) -> None:
    """A player shows what was drawn: the file says by which matrix its colours are meant."""
    plain = np.full((32, 32, 3), colour, np.uint8)
    data = encode_film([plain], size=(32, 32), fps=10, job_id=JOB_ID, seed=1)
    with av.open(BytesIO(data), "r") as container:
        (frame,) = container.decode(video=0)
    assert np.abs(frame.to_ndarray(format="rgb24").astype(int) - colour).max() <= 3
    assert (frame.colorspace, frame.color_range) == (1, 1)


@pytest.mark.parametrize("channels", [1, 2])
def test_sound(channels: int) -> None:
    """It is as long as before, on as many channels, and each channel is its own."""
    times = np.arange(24_000) / 48_000
    tones = [np.sin(times * 2 * np.pi * hertz) / 2 for hertz in (220, 550)][:channels]
    sound = Sound(np.stack(tones).astype(np.float32))
    frames = moving(5, 32, 32)
    data = encode_film(frames, size=(32, 32), fps=10, job_id=JOB_ID, seed=1, sound=sound)
    heard = decode_sound(data).samples
    assert heard.shape[0] == channels
    assert abs(heard.shape[1] - 24_000) <= 1024
    for before, after in zip(sound.samples, heard, strict=True):
        assert np.corrcoef(before, after[:24_000])[0, 1] > 0.98


@pytest.mark.parametrize("data", [b"", b"no sound", b"RIFF\x24\0\0\0WAVEfmt "])
def test_what_is_no_sound(data: bytes) -> None:
    """Whatever it is, the error is ours."""
    with pytest.raises(ValueError, match=r"cannot be read|no sound"):
        decode_sound(data)


def test_a_film_without_sound_is_no_sound() -> None:
    """A file may hold pictures only."""
    silent = encode_film(moving(2, 32, 32), size=(32, 32), fps=10, job_id=JOB_ID, seed=1)
    with pytest.raises(ValueError, match="no sound in it"):
        decode_sound(silent)
