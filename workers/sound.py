"""Sound files that say where they come from: WAV and MP3, by PyAV."""

from io import BytesIO
from typing import Any, Literal
from uuid import UUID

import av
import numpy as np
from numpy.typing import NDArray

MEDIA_TYPES = {"wav": "audio/wav", "mp3": "audio/mpeg"}
CODECS = {"wav": "pcm_s16le", "mp3": "libmp3lame"}
LAYOUTS = {1: "mono", 2: "stereo"}

MP3_BIT_RATE = 96_000
"""Bits a second and channel; at low sample rates the codec takes less."""

FULL_SCALE = 2**15 - 1


def encode_sound(
    samples: NDArray[np.floating[Any]],
    sample_rate_hz: int,
    form: Literal["wav", "mp3"],
    *,
    job_id: UUID,
    seed: int,
) -> bytes:
    """The samples as 16-bit PCM in WAV, or as MP3; the same samples give the same bytes.

    ``samples`` [time] or [channels, time] lie between -1 and 1, what is beyond is cut off. The
    file's comment names the job and the seed; no text: it may hold personal data, and files travel.
    """
    channels = np.atleast_2d(samples)
    pcm = np.rint(np.clip(channels, -1, 1) * FULL_SCALE).astype(np.int16)
    layout = LAYOUTS[len(pcm)]
    buffer = BytesIO()
    # Bit-exact: without the versions of the libraries in the file.
    with av.open(buffer, "w", format=form, options={"fflags": "+bitexact"}) as container:
        container.metadata["comment"] = f"presswork:job {job_id} presswork:seed {seed}"
        stream = container.add_stream(
            CODECS[form], rate=sample_rate_hz, options={"flags": "+bitexact"}, layout=layout
        )
        assert isinstance(stream, av.AudioStream)
        if form == "mp3":
            stream.bit_rate = MP3_BIT_RATE * len(pcm)
        interleaved = np.ascontiguousarray(pcm.T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(interleaved, format="s16", layout=layout)
        frame.sample_rate = sample_rate_hz
        for part in (frame, None):
            container.mux(stream.encode(part))
    return buffer.getvalue()


def facts_of(samples: NDArray[np.floating[Any]], sample_rate_hz: int) -> dict[str, Any]:
    """What is worth knowing of the samples [time] or [channels, time]."""
    channels, length = np.atleast_2d(samples).shape
    return {
        "sample_rate_hz": sample_rate_hz,
        "duration_s": round(length / sample_rate_hz, 3),
        "channels": channels,
    }
