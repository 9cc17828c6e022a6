"""What becomes of an uploaded picture: written anew, or refused with a reason."""

import io
import os
import resource
import struct
import subprocess
import sys
import zipfile
import zlib
from typing import Any

import pytest
from PIL import Image, ImageCms

from jobs.pictures import cleaning, decoder
from jobs.pictures.cleaning import clean
from jobs.pictures.errors import PictureError, PictureFormatError, PictureTooLargeError
from jobs.pictures.formats import MAX_BYTES, MIB

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="macOS has no limit on memory")


def drawn(mode: str = "RGB", width: int = 40, height: int = 24) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), (250, 20, 30))
    image.paste((20, 30, 250), (width // 2, 0, width, height))
    return image.quantize(4) if mode == "P" else image.convert(mode)


def encoded(image: Image.Image, format_: str, **options: Any) -> bytes:
    """The file."""
    written = io.BytesIO()
    image.save(written, format_, **options)
    return written.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    crc = zlib.crc32(name + body)
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", crc)


def png(width: int, height: int, *chunks: bytes, bits: int = 8, rows: bytes = b"") -> bytes:
    """A PNG, grey, with further chunks behind its header."""
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IDAT", rows)
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def with_chunk(name: bytes, body: bytes) -> bytes:
    """A good PNG with one more chunk behind its header."""
    good = encoded(drawn(), "PNG")
    return good[:33] + chunk(name, body) + good[33:]


def resized(jpeg: bytes, width: int, height: int) -> bytes:
    """A JPEG that claims another size."""
    place = jpeg.index(b"\xff\xc0")
    return jpeg[: place + 5] + struct.pack(">HH", height, width) + jpeg[place + 9 :]


def archive() -> bytes:
    """A small ZIP archive."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as file:
        file.writestr("evil.txt", "x")
    return written.getvalue()


def opened(data: bytes) -> Image.Image:
    """What was written, in Pillow's hands."""
    picture = clean(data)
    image = Image.open(io.BytesIO(picture.png))
    image.load()
    assert image.format == "PNG"
    assert image.size == (picture.width, picture.height)
    assert not image.info
    return image


def chunk_names(data: bytes) -> set[bytes]:
    """The names of a PNG's chunks."""
    names, place = set(), 8
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        names.add(data[place + 4 : place + 8])
        place += 12 + length
    return names


def near(pixel: object, wanted: tuple[int, ...]) -> bool:
    """Within what lossy formats change."""
    assert isinstance(pixel, tuple)
    return len(pixel) == len(wanted) and all(
        abs(a - b) < 16 for a, b in zip(pixel, wanted, strict=True)
    )


@pytest.mark.parametrize(
    ("mode", "format_"),
    [("RGB", "PNG"), ("P", "PNG"), ("RGB", "JPEG"), ("RGB", "WEBP"), ("CMYK", "JPEG")],
)
def test_a_picture_is_kept(mode: str, format_: str) -> None:
    """Every format and mode comes out as RGB in the same colours, the same bytes each time."""
    data = encoded(drawn(mode), format_)
    image = opened(data)
    assert image.mode == "RGB"
    assert image.size == (40, 24)
    assert near(image.getpixel((3, 3)), (250, 20, 30))
    assert near(image.getpixel((36, 20)), (20, 30, 250))
    assert clean(data) == clean(data)


def test_lossless_webp_and_grey() -> None:
    """Lossless WebP comes out exactly; grey becomes three equal channels."""
    assert opened(encoded(drawn(), "WEBP", lossless=True)).tobytes() == drawn().tobytes()
    grey = opened(encoded(drawn("L"), "PNG"))
    assert grey.tobytes() == drawn("L").convert("RGB").tobytes()


@pytest.mark.parametrize("format_", ["PNG", "WEBP"])
def test_alpha_is_kept(format_: str) -> None:
    """A transparent picture stays one."""
    image = drawn("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    made = opened(encoded(image, format_, lossless=True))
    assert made.mode == "RGBA"
    assert made.getchannel("A").tobytes() == image.getchannel("A").tobytes()


def test_a_transparent_colour_of_a_palette() -> None:
    """Transparency that is no channel becomes one."""
    made = opened(encoded(drawn("P"), "PNG", transparency=drawn("P").getpixel((0, 0))))
    assert made.mode == "RGBA"
    assert made.getpixel((3, 3))[3] == 0  # type: ignore[index]
    assert made.getpixel((36, 3))[3] == 255  # type: ignore[index]


def test_sixteen_bits() -> None:
    """Sixteen bits are scaled to eight, and not cut off at 255."""
    rows = b"".join(b"\0" + struct.pack(">4H", 0, 0x4000, 0x8000, 0xFFFF) for _ in range(2))
    made = opened(png(4, 2, bits=16, rows=zlib.compress(rows)))
    assert [made.getpixel((x, 0)) for x in range(4)] == [(v,) * 3 for v in (0, 0x40, 0x80, 0xFF)]


def test_a_phone_photo() -> None:
    """It is turned upright, and where it was taken is gone with all that was not the picture."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "SECRET maker"
    exif.get_ifd(0x8825)[1] = "N"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    photo = encoded(drawn(), "JPEG", exif=exif, comment=b"SECRET", xmp=b"<x>SECRET</x>")
    assert photo.count(b"SECRET") == 3
    picture = clean(photo)
    assert (picture.width, picture.height) == (24, 40)
    assert chunk_names(picture.png) == {b"IHDR", b"IDAT", b"IEND"}
    assert near(opened(photo).getpixel((3, 3)), (250, 20, 30))
    assert near(opened(photo).getpixel((3, 36)), (20, 30, 250))


def test_text_of_a_png() -> None:
    """Text chunks do not survive."""
    data = with_chunk(b"tEXt", b"Author\0SECRET")
    assert chunk_names(clean(data).png) == {b"IHDR", b"IDAT", b"IEND"}


def test_a_colour_profile() -> None:
    """Colours are converted to sRGB by the profile; one that is broken says nothing."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = opened(encoded(drawn(), "PNG"))
    assert near(opened(encoded(drawn(), "PNG", icc_profile=srgb)).getpixel((3, 3)), (250, 20, 30))
    assert opened(encoded(drawn(), "PNG", icc_profile=b"no profile")) == plain
    # A profile whose red is blue.
    swapped = srgb.replace(b"rXYZ", b"____").replace(b"bXYZ", b"rXYZ").replace(b"____", b"bXYZ")
    for mode in ("RGB", "RGBA"):
        image = opened(encoded(drawn(mode), "PNG", icc_profile=swapped))
        assert image.mode == mode
        red, _, blue = image.convert("RGB").split()
        assert (red.getpixel((3, 3)), blue.getpixel((3, 3))) == (30, 250)


OTHERS: dict[str, tuple[bytes, str]] = {
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    "svg with a prologue": (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- x -->\n<SVG/>', "SVG"),
    "pdf": (b"%PDF-1.7\n", "PDF"),
    "html": (b"\n<!DOCTYPE html><html>", "HTML"),
    "gif": (encoded(drawn("P"), "GIF"), "GIF"),
    "tiff": (encoded(drawn(), "TIFF"), "TIFF"),
    "bmp": (encoded(drawn(), "BMP"), "BMP"),
    "zip": (archive(), "a ZIP archive"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(32), "HEIC"),
    "video": (b"\0\0\0\x18ftypisom" + bytes(32), "a video"),
    "text": (b"hello", "no picture"),
    "wav": (b"RIFF\x04\0\0\0WAVE", "no picture"),
}


@pytest.mark.parametrize(("data", "name"), OTHERS.values(), ids=OTHERS)
def test_other_formats(data: bytes, name: str) -> None:
    """What is no PNG, JPEG or WebP is called by its name, with what to send instead."""
    with pytest.raises(PictureFormatError, match=f"is {name}.*send PNG, JPEG or WebP"):
        clean(data)


PNG, JPEG, WEBP = (encoded(drawn(), format_) for format_ in ("PNG", "JPEG", "WEBP"))
FRAMES: dict[str, Any] = {"save_all": True, "append_images": [drawn("L")]}
ZIPPED_BOMB = zlib.compress(bytes(100 * MIB), 1)

BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "png cut off": (PNG[:-20], "cut off"),
    "png without an end": (PNG[:-12], "cut off"),
    "jpeg cut off": (JPEG[: len(JPEG) // 2], "cut off"),
    "jpeg head": (JPEG[:5], "cut off"),
    "webp cut off": (WEBP[:-8], "cut off"),
    "webp head": (WEBP[:16], "cut off"),
    "png with a wrong checksum": (PNG.replace(PNG[29:33], b"\0\0\0\0", 1), "damaged"),
    "png with too few rows": (
        png(9, 9, rows=zlib.compress(os.urandom(90))[:50]),
        "damaged or cut off",
    ),
    "jpeg of markers alone": (b"\xff\xd8\xff\xd9", "no size"),
    "webp without a picture": (b"RIFF\x04\0\0\0WEBP", "no size"),
    "no width": (png(0, 5), "no width"),
    "png and zip": (PNG + archive(), "bytes behind the end"),
    "jpeg and jpeg": (JPEG + JPEG, "bytes behind the end"),
    "webp and html": (WEBP + b"<html>", "bytes behind the end"),
    "zip in a png": (with_chunk(b"teXt", archive()), "ZIP archive as well"),
    "pdf in a png": (with_chunk(b"tEXt", b"a\0%PDF-1.4"), "document as well .%PDF-"),
    "html in a jpeg": (encoded(drawn(), "JPEG", comment=b"<html>"), "document as well"),
    "php in a webp": (encoded(drawn(), "WEBP", xmp=b"<?php system()"), "document as well"),
    "animated png": (encoded(drawn(), "PNG", **FRAMES), "animated"),
    "animated webp": (encoded(drawn(), "WEBP", **FRAMES), "animated"),
    "png bomb": (png(60_000, 60_000, rows=ZIPPED_BOMB), "60000x60000 pixels"),
    "long png": (png(20_000, 2, rows=ZIPPED_BOMB), "20000x2 pixels"),
    "jpeg bomb": (resized(JPEG, 65_500, 65_500), "65500x65500 pixels"),
    "webp bomb": (encoded(Image.new("1", (16_383, 2_500)), "WEBP", lossless=True), "make it small"),
    "text bomb": (with_chunk(b"zTXt", b"a\0\0" + ZIPPED_BOMB), "too much text"),
    "profile bomb": (with_chunk(b"iCCP", b"a\0\0" + ZIPPED_BOMB), "too large a profile"),
}


@pytest.mark.parametrize(("data", "reason"), BAD.values(), ids=BAD)
def test_bad_pictures(data: bytes, reason: str) -> None:
    """Each is refused with its reason, and takes no more memory of this process than its size."""
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PictureError, match=reason) as refused:
        clean(data)
    assert "site-packages" not in str(refused.value)
    if sys.platform == "linux":
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
        assert grown_kib < 16 * 1024


def test_too_many_bytes() -> None:
    """The size is looked at first."""
    with pytest.raises(PictureTooLargeError, match="more than 20 MiB"):
        clean(PNG + bytes(MAX_BYTES))


def test_a_marker_search_is_linear() -> None:
    """Twenty megabytes of 0xFF keep nobody busy."""
    start = JPEG[: JPEG.index(b"\xff\xda") + 16]
    with pytest.raises(PictureError, match="cut off"):
        clean(start + b"\xff" * (MAX_BYTES - len(start)))


@LINUX
def test_the_decoder_holds_its_limit_on_memory() -> None:
    """Even a picture that the checks before it would not have let through takes no more."""
    side = 30_000
    bomb = png(side, side, bits=1, rows=zlib.compress(bytes((side // 8 + 1) * side), 1))
    # By way of a small process: a child is born with the peak of who starts it.
    program = (
        "import resource, subprocess, sys\n"
        "code = subprocess.run(sys.argv[1:]).returncode\n"
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss\n"
        "print(code, peak, file=sys.stderr)\n"
    )
    command = [sys.executable, "-I", decoder.__file__, "PNG", str(side * side)]
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, *command], input=bomb, capture_output=True, check=True
    )
    assert done.stdout == b"needs more memory than a picture may"
    code, peak_kib = map(int, done.stderr.split())
    assert code == 1
    assert 100 * 1024 < peak_kib < decoder.MEMORY_BYTES / 1024


@LINUX
def test_the_decoder_can_open_and_write_nothing(tmp_path: object) -> None:
    """Once limited, the process has no way to files, and no environment to read secrets from."""
    program = (
        "import os, runpy, sys\n"
        f"parts = runpy.run_path({decoder.__file__!r})\n"
        "parts['_limit']()\n"
        "try:\n    open('/etc/hostname')\nexcept OSError as error:\n    print(error.errno)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, check=True, text=True
    )
    assert done.stdout.strip() == "24"  # EMFILE


def test_a_decoder_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended, and the picture refused."""
    monkeypatch.setattr(cleaning, "WALL_S", 0.1)
    large = png(6000, 6000, rows=zlib.compress(bytes(6001 * 6000), 1))
    with pytest.raises(PictureError, match="more time or memory"):
        clean(large)


def test_a_large_picture_within_the_limits() -> None:
    """What few bytes hold may be decoded up to the limit on pixels."""
    picture = clean(png(8000, 5000, rows=zlib.compress(bytes(8001 * 5000), 1)))
    assert (picture.width, picture.height) == (8000, 5000)


@pytest.mark.parametrize(
    "pretend",
    [
        "import sys; sys.stdout.buffer.write(b'GIF89a')",
        "import sys; sys.stdout.buffer.write(b'\\x89PNG\\r\\n\\x1a\\n' + bytes(99))",
        "pass",
    ],
)
def test_the_decoder_is_not_trusted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, pretend: str
) -> None:
    """Whatever it answers but a PNG within the limits is no picture."""
    program = tmp_path / "decoder.py"
    program.write_text(pretend)
    monkeypatch.setattr(cleaning, "_DECODER", program)
    with pytest.raises(PictureError, match="cannot be decoded"):
        clean(PNG)


def test_answers_have_a_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """A decoder that writes without end is ended as soon as it has said too much."""
    program = tmp_path / "decoder.py"
    program.write_text("import sys\nwhile True: sys.stdout.buffer.write(bytes(65536))")
    monkeypatch.setattr(cleaning, "_DECODER", program)
    monkeypatch.setattr(cleaning, "MAX_PNG_BYTES", MIB)
    with pytest.raises(PictureError, match="more than 1 MiB as PNG"):
        clean(PNG)
