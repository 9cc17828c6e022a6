"""Files of datasets: pictures with something in them, and archives of whatever is asked for."""

import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from PIL import Image


def drawn(number: int, width: int = 96, height: int = 80) -> Image.Image:
    """A picture of soft blots, others for each ``number``."""
    blots = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(blots).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format_: str = "PNG") -> bytes:
    """The file."""
    written = io.BytesIO()
    image.save(written, format_)
    return written.getvalue()


def photo(number: int, width: int = 96, height: int = 80) -> bytes:
    """`drawn` as a PNG."""
    return encoded(drawn(number, width, height))


def mask(width: int = 96, height: int = 80, shade: int = 255) -> bytes:
    """A mask of one shade."""
    return encoded(Image.new("L", (width, height), shade))


def jsonl(items: Iterable[object]) -> bytes:
    """A JSON object a line."""
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


def metadata(captions: Mapping[str, Any]) -> bytes:
    """A ``metadata.jsonl``."""
    return jsonl({"file_name": name, "text": text} for name, text in captions.items())


def zipped(files: Mapping[Any, bytes]) -> bytes:
    """A ZIP archive of files by their names, or by what else is to be said of an entry."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    return written.getvalue()


def imagefolder(count: int = 3, first: int = 0) -> dict[str, bytes]:
    """Pictures with captions in a ``metadata.jsonl``."""
    numbers = range(first, first + count)
    captions = {f"{number}.png": f"a brandx-mug, number {number}" for number in numbers}
    pictures = {f"{number}.png": photo(number) for number in numbers}
    return {"metadata.jsonl": metadata(captions), **pictures}


def pairs(count: int = 10) -> list[dict[str, str]]:
    """Texts for prompts."""
    return [{"prompt": f"mug {n}", "completion": f"The mug for day {n}."} for n in range(count)]


def chat(*turns: tuple[str, str]) -> dict[str, Any]:
    """A chat of roles and contents."""
    return {"messages": [{"role": role, "content": content} for role, content in turns]}
