"""Picture files in the format that a job asks for, that say where they come from."""

from collections.abc import Callable, Mapping
from functools import partial
from io import BytesIO
from typing import Any
from uuid import UUID

from PIL import ExifTags
from PIL.Image import Exif, Image

from workers.family import Output
from workers.pictures import on_white
from workers.png import encode_png

JPEG_QUALITY = 90
"""With colour at full resolution (4:4:4): what is drawn or written keeps its edges."""
WEBP_QUALITY = 85
"""Lossy, by the fastest method: of the same signal-to-noise ratio as the default one at a third
of its time, and 2 to 3 % larger (photo-like pictures of 512 and 1024 px)."""
WEBP_METHOD = 0

_ASCII = b"ASCII\0\0\0"
"""How the text of an EXIF comment begins."""


def picture_output(
    draw: Callable[[], Image],
    format_: str,
    *,
    job_id: UUID,
    seed: int,
    facts: Mapping[str, Any],
) -> Output:
    """What ``draw`` gives, encoded when it is stored; its format is added to the facts.

    Like the text chunks of a PNG, the EXIF of the others has ``Software``, job and seed, and no
    prompt.
    """
    match format_:
        case "jpeg":
            encode, more = _jpeg, {"encoded_quality": JPEG_QUALITY}
        case "webp":
            encode, more = _webp, {"encoded_quality": WEBP_QUALITY}
        case _:
            encode, more = encode_png, {}
    content = partial(_content, draw, partial(encode, job_id=job_id, seed=seed))
    return Output(content, f"image/{format_}", {**facts, "format": format_, **more})


def _content(draw: Callable[[], Image], encode: Callable[[Image], bytes]) -> bytes:
    return encode(draw())


def _jpeg(image: Image, *, job_id: UUID, seed: int) -> bytes:
    exif = _exif(job_id, seed)
    buffer = BytesIO()
    on_white(image).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling="4:4:4", exif=exif)
    return buffer.getvalue()


def _webp(image: Image, *, job_id: UUID, seed: int) -> bytes:
    exif = _exif(job_id, seed)
    buffer = BytesIO()
    image.save(buffer, "WEBP", quality=WEBP_QUALITY, method=WEBP_METHOD, exif=exif)
    return buffer.getvalue()


def _exif(job_id: UUID, seed: int) -> Exif:
    exif = Exif()
    exif[ExifTags.Base.Software] = "Presswork"
    comment = f"presswork:job={job_id} presswork:seed={seed}"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = _ASCII + comment.encode("ascii")
    return exif
