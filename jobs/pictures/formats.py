"""What can be said of a picture without decoding it: its format, its size, and where it ends.

Only the containers are walked, in Python: PNG chunks, JPEG markers, WebP's RIFF chunks. Nothing
here is decompressed, and no memory is allocated by what a file claims.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from jobs.pictures.errors import PictureError, PictureFormatError, PictureTooLargeError

MIB = 1024 * 1024
MAX_BYTES = 20 * MIB
MAX_PIXELS = 40_000_000
MAX_SIDE_PX = 16_384

Format = Literal["PNG", "JPEG", "WEBP"]

_PNG = b"\x89PNG\r\n\x1a\n"
_WANTED = "send PNG, JPEG or WebP"
_SNIFFED = 1024
"""How far into a file browsers and PDF readers look for what they take it to be."""

_OTHERS = (
    (rb"%PDF-", "PDF"),
    (rb"GIF8", "GIF"),
    (rb"II\*\0|MM\0\*", "TIFF"),
    (rb"BM", "BMP"),
    (rb"8BPS", "a Photoshop file"),
    (rb"PK\x03\x04", "a ZIP archive"),
    (rb"\x1f\x8b", "a gzip file"),
    (rb"....ftyp(?:heic|heix|mif1|msf1)", "HEIC"),
    (rb"....ftypavi[fs]", "AVIF"),
    (rb"....ftyp", "a video"),
    (rb"\x1aE\xdf\xa3", "a video"),
    (rb"(?i:\s*(?:<\?xml[^>]*>|<!--.*?-->|<!doctype\s+svg[^>]*>|\s)*<svg)", "SVG"),
    (rb"(?i:\s*(?:<!--.*?-->|\s)*<(?:!doctype\s+html|html|head|body|script))", "HTML"),
)
_MARKUP = re.compile(rb"(?i)%PDF-|<svg|<html|<!doctype|<script|<\?php")
_SCRIPT = re.compile(rb"(?i)<script[\s>]|<\?php\s")
_ZIP_END_BYTES = 22 + 0xFFFF
"""A ZIP archive is read from its end, which may have a comment of 64 KiB behind it."""

# Behind a scan the next marker; FF 00 is a byte of it, FF D0 to D7 are its restarts. (Not FF+,
# which would take quadratic time on a file of FF alone.)
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SCAN, _END = 0xDA, 0xD9


@dataclass(frozen=True)
class Header:
    """What a file says of itself."""

    format: Format
    width: int
    height: int


def inspect(data: bytes, *, max_bytes: int = MAX_BYTES) -> Header:
    """The header of a picture that is whole, alone in its file, and within the limits.

    Raises:
        PictureError: why it is not.
    """
    if len(data) > max_bytes:
        raise PictureTooLargeError(too_large(max_bytes))
    if not data:
        raise PictureError("is empty")
    header = _header(data)
    if not header.width or not header.height:
        raise PictureError("is damaged: it has no width or no height")
    if max(header.width, header.height) > MAX_SIDE_PX or header.width * header.height > MAX_PIXELS:
        raise PictureError(
            f"has {header.width}x{header.height} pixels; at most {MAX_SIDE_PX} a side and "
            f"{MAX_PIXELS // 1_000_000} million in all are taken: make it smaller"
        )
    _check_alone(data)
    return header


def too_large(max_bytes: int = MAX_BYTES) -> str:
    """What is said of a file with more bytes."""
    return f"has more than {max_bytes // MIB} MiB; make the picture smaller"


def _header(data: bytes) -> Header:
    try:
        if data.startswith(_PNG):
            return _png(data)
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError) as error:
        raise _cut_off() from error
    raise PictureFormatError(f"is {_name(data)}: {_WANTED}")


def _name(data: bytes) -> str:
    head = data[:_SNIFFED].removeprefix(b"\xef\xbb\xbf")
    for pattern, name in _OTHERS:
        if re.match(pattern, head, re.DOTALL):
            return name
    return "no picture that can be read here"


def _cut_off() -> PictureError:
    return PictureError("is damaged or cut off: it ends before the picture does")


def _animated() -> PictureError:
    return PictureError("is animated: send a single picture")


def _check_end(data: bytes, end: int) -> None:
    if end > len(data):
        raise _cut_off()
    if end < len(data):
        raise PictureError(
            f"has {len(data) - end} bytes behind the end of the picture (another file, or the "
            "second part of a phone's photo); save it again as a plain picture"
        )


def _check_alone(data: bytes) -> None:
    """Refuse what other programs would take for a file of another kind."""
    found = _MARKUP.search(data, 0, _SNIFFED) or _SCRIPT.search(data)
    if found:
        what = found[0].decode("ascii").strip()
        raise PictureError(f"is a document as well ({what} is in it); save it again as a picture")
    # Four bytes may stand anywhere by chance; both of these, one of them near the end, do not.
    if data.rfind(b"PK\x05\x06", -_ZIP_END_BYTES) != -1 and b"PK\x01\x02" in data:
        raise PictureError("is a ZIP archive as well; save it again as a picture")


def _png(data: bytes) -> Header:
    place, first = len(_PNG), True
    header: tuple[int, int] | None = None
    while True:
        length, name = struct.unpack_from(">I4s", data, place)
        if first:
            if name != b"IHDR":
                raise PictureError("is damaged: a PNG begins with its header")
            header, first = struct.unpack_from(">II", data, place + 8), False
        place += 12 + length
        if name == b"acTL":
            raise _animated()
        if place > len(data):
            raise _cut_off()
        if name == b"IEND":
            break
    _check_end(data, place)
    assert header
    return Header("PNG", *header)


def _jpeg(data: bytes) -> Header:
    place, size = 2, None
    while True:
        if data[place] != 0xFF:  # noqa: PLR2004 (every marker begins with it)
            raise PictureError("is damaged: its parts do not follow each other")
        marker = data[place + 1]
        if marker == 0xFF:  # noqa: PLR2004 (it fills)
            place += 1
            continue
        if marker == _END:
            break
        (length,) = struct.unpack_from(">H", data, place + 2)
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, place + 5)
            if size and size != (width, height):
                raise PictureError("is damaged: it has two sizes")
            size = (width, height)
        place += 2 + length
        if marker == _SCAN:
            found = _MARKER.search(data, place)
            if not found:
                raise _cut_off()
            place = found.start()
    if not size:
        raise PictureError("is damaged: it has no size")
    _check_end(data, place + 2)
    return Header("JPEG", *size)


def _webp(data: bytes) -> Header:
    (length,) = struct.unpack_from("<I", data, 4)
    _check_end(data, 8 + length)
    sizes = []
    for name, start in _riff_chunks(data):
        if name in {b"ANIM", b"ANMF"}:
            raise _animated()
        if name == b"VP8X":
            low = struct.unpack_from("<HBHB", data, start + 4)
            sizes.append((low[0] + (low[1] << 16) + 1, low[2] + (low[3] << 16) + 1))
        elif name == b"VP8L":
            (bits,) = struct.unpack_from("<I", data, start + 1)
            sizes.append(((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1))
        elif name == b"VP8 ":
            width, height = struct.unpack_from("<HH", data, start + 6)
            sizes.append((width & 0x3FFF, height & 0x3FFF))
    if not sizes:
        raise PictureError("is damaged: it has no size")
    if len(set(sizes)) > 1:
        raise PictureError("is damaged: it has two sizes")
    return Header("WEBP", *sizes[0])


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Each chunk's name and where its payload starts."""
    place = 12
    while place < len(data):
        name, length = struct.unpack_from("<4sI", data, place)
        if place + 8 + length > len(data):
            raise _cut_off()
        yield name, place + 8
        place += 8 + length + length % 2
