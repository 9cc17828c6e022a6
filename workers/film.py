"""MP4 files: H.264 pictures with AAC sound, from frames that come one by one."""

import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.video.frame import VideoFrame
from numpy.typing import NDArray

SOUND_RATE_HZ = 48_000
"""What video players and networks expect; a shorter AAC frame as well, so that ends agree."""

Frame = NDArray[np.uint8]
"""One picture, ``(height, width, 3)``, red, green, blue."""

_BT709 = 1
"""ITU-T H.273: the primaries, transfer and matrix of HD video."""
_LIMITED = 1
"""libav's number for the range 16-235, which every player expects."""

_THREADS = 1
"""x264's output depends on how many it has; a second made slideshows no faster."""
_AAC_FRAME = 1024
_PRESET = "veryfast"
"""Measured on slideshows of 640x640: the slower presets made files no smaller."""
_CRF = "20"
_X264 = "mbtree=0"
"""With its macroblock tree x264 165 gives other bytes at every run, even on one thread."""


@dataclass(frozen=True)
class Sound:
    """Samples from -1 to 1, ``(channels, length)`` with one or two channels, at 48 kHz."""

    samples: NDArray[np.float32]

    @property
    def duration_s(self) -> float:
        """How long it takes to hear it."""
        length: int = self.samples.shape[1]
        return length / SOUND_RATE_HZ


def decode_sound(data: bytes) -> Sound:
    """The sound in a WAV or MP3 file, whatever its rate.

    Raises:
        ValueError: there is none in it.
    """
    try:
        with av.open(BytesIO(data), "r") as container:
            if not container.streams.audio:
                raise ValueError("no sound in it")
            stream = container.streams.audio[0]
            layout = "mono" if stream.channels == 1 else "stereo"
            resampler = AudioResampler(format="fltp", layout=layout, rate=SOUND_RATE_HZ)
            parts = [
                part.to_ndarray()
                for frame in (*container.decode(stream), None)
                for part in resampler.resample(frame)
            ]
    except av.FFmpegError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    if not parts:
        raise ValueError("no sound in it")
    return Sound(np.concatenate(parts, axis=1, dtype=np.float32))


def encode_film(
    frames: Iterable[Frame],
    *,
    size: tuple[int, int],
    fps: int,
    job_id: UUID,
    seed: int,
    sound: Sound | None = None,
) -> bytes:
    """An MP4 file of the frames, all of that (width, height), both even.

    It plays while it is still being loaded (its index comes first). Frames are taken one by one,
    the sound beside them. The same input gives the same bytes. Of the request, the file tells the
    job and the seed, as `workers.png` does, never the prompt.
    """
    width, height = size
    assert width % 2 == 0, "4:2:0 has one colour for two by two pixels"
    assert height % 2 == 0, "4:2:0 has one colour for two by two pixels"
    # A file of its own: to put the index first, libav opens what it has written once more.
    handle, name = tempfile.mkstemp(prefix="presswork-", suffix=".mp4")
    os.close(handle)
    path = Path(name)
    try:
        options = {"movflags": "+faststart", "fflags": "+bitexact"}
        with av.open(name, "w", format="mp4", options=options) as container:
            container.metadata["comment"] = f"presswork:job {job_id} presswork:seed {seed}"
            _write(container, frames, size, fps, sound)
        return path.read_bytes()
    finally:
        path.unlink()


def _write(
    container: Any,
    frames: Iterable[Frame],
    size: tuple[int, int],
    fps: int,
    sound: Sound | None,
) -> None:
    video = _video_stream(container, size, fps)
    heard_s = 0.0 if sound else math.inf
    heard = _encoded(_audio_stream(container, sound), sound) if sound else iter(())
    for number, pixels in enumerate(frames):
        # Up to here in the sound: what belongs together lies together in the file.
        while heard_s <= number / fps:
            heard_s, packets = next(heard)
            container.mux(packets)
        frame = VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
            format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
        )
        frame.pts, frame.time_base = number, Fraction(1, fps)
        container.mux(video.encode(frame))
    container.mux(video.encode(None))
    for _, packets in heard:
        container.mux(packets)


def _video_stream(container: Any, size: tuple[int, int], fps: int) -> Any:
    options = {"preset": _PRESET, "crf": _CRF, "x264-params": _X264, "flags": "+bitexact"}
    stream = container.add_stream("libx264", rate=fps, options=options)
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.thread_count = _THREADS
    context.color_range = _LIMITED
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    return stream


def _audio_stream(container: Any, sound: Sound) -> Any:
    layout = "mono" if sound.samples.shape[0] == 1 else "stereo"
    options = {"flags": "+bitexact"}
    stream = container.add_stream("aac", rate=SOUND_RATE_HZ, layout=layout, options=options)
    stream.bit_rate = 96_000 * sound.samples.shape[0]
    return stream


def _encoded(stream: Any, sound: Sound) -> Iterator[tuple[float, list[Any]]]:
    """The sound's packets, each time with the second up to which it has been taken."""
    length = sound.samples.shape[1]
    for start in range(0, length, _AAC_FRAME):
        part = np.ascontiguousarray(sound.samples[:, start : start + _AAC_FRAME])
        frame = AudioFrame.from_ndarray(part, format="fltp", layout=stream.layout.name)
        frame.sample_rate, frame.pts = SOUND_RATE_HZ, start
        frame.time_base = Fraction(1, SOUND_RATE_HZ)
        yield (start + _AAC_FRAME) / SOUND_RATE_HZ, stream.encode(frame)
    yield math.inf, stream.encode(None)
