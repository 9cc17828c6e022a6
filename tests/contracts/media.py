"""Outputs opened by other programs than those that wrote them: Pillow, PyAV, a JSON parser."""

import json
from io import BytesIO
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from workers.family import Output


def medium(output: Output) -> str:
    """``picture``, ``sound``, ``video`` or ``text``, by what the file really holds."""
    if output.media_type.startswith("image/"):
        with Image.open(BytesIO(output.data)) as image:
            assert Image.MIME[str(image.format)] == output.media_type
        return "picture"
    if output.media_type.startswith(("audio/", "video/")):
        with av.open(BytesIO(output.data)) as container:
            return "video" if container.streams.video else "sound"
    _text(output)
    return "text"


def facts(output: Output) -> dict[str, Any]:
    """The facts that can be read from the file itself."""
    match medium(output):
        case "picture":
            with Image.open(BytesIO(output.data)) as image:
                return {"width": image.width, "height": image.height}
        case "video":
            with av.open(BytesIO(output.data)) as container:
                stream = container.streams.video[0]
                return {"width": stream.width, "height": stream.height}
        case "sound":
            with av.open(BytesIO(output.data)) as container:
                return {"sample_rate_hz": container.streams.audio[0].rate}
        case _:
            return {}


def difference(one: Output, two: Output) -> float:
    """The greatest difference between two files of the same sort, as a share of full scale."""
    if one.data == two.data:
        return 0
    if medium(one) == "text":
        return 0.0 if _text(one) == _text(two) else 1.0
    first, second = _samples(one), _samples(two)
    assert len(first) == len(second)
    return max(round(float(np.abs(a - b).max()), 6) for a, b in zip(first, second, strict=True))


def fingerprint(outputs: list[Output]) -> list[Any]:
    """What differs where outputs do, without what only names the job."""
    return [
        _text(output) if medium(output) == "text" else [part.tobytes() for part in _samples(output)]
        for output in outputs
    ]


def _text(output: Output) -> Any:
    text = output.data.decode()
    return json.loads(text) if output.media_type == "application/json" else text


def _samples(output: Output) -> list[NDArray[np.float64]]:
    """Pixels or pressure, from 0 to 1 or from -1 to 1."""
    if output.media_type.startswith("image/"):
        with Image.open(BytesIO(output.data)) as image:
            return [np.asarray(image.convert("RGB"), dtype=np.float64) / 255]
    with av.open(BytesIO(output.data), "r") as container:
        if container.streams.video:
            return [
                frame.to_ndarray(format="rgb24").astype(np.float64) / 255
                for frame in container.decode(video=0)
            ]
    with av.open(BytesIO(output.data), "r") as container:
        parts = [frame.to_ndarray() for frame in container.decode(audio=0)]
    joined = np.concatenate([part.astype(np.float64).reshape(-1) for part in parts])
    return [joined / (2**15 if parts[0].dtype == np.int16 else 1)]
