"""The program that decodes one picture: stdin to stdout, with limits, and trusted by nobody.

It is run as a file of its own by `jobs.pictures.cleaning` and knows nothing of Presswork: with an
empty environment, no open files, and no right to make any. Exit 0: stdout is a PNG, RGB or RGBA in
sRGB, without metadata. Exit 1: stdout is the reason why there is none.
"""

import importlib
import io
import sys
import warnings
from contextlib import suppress

from PIL import Image, ImageCms, ImageFile, ImageOps

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]

MEMORY_BYTES = 1024**3
"""40 million pixels take 160 MB as RGBA, and several of their forms exist at once."""
CPU_S = 20

REFUSED = 1

_FAST = 1
"""zlib's quickest level: the best of them takes ten times as long and saves a tenth."""


def main() -> int:
    """Decode stdin; the first argument is the format, the second the limit on pixels."""
    format_, max_pixels = sys.argv[1], int(sys.argv[2])
    # All that Pillow would import when it needs it, TIFF for EXIF: then no file can be opened.
    Image.preinit()
    for name in ("Jpeg", "Png", "Tiff", "WebP"):
        importlib.import_module(f"PIL.{name}ImagePlugin")
    _limit()
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    Image.MAX_IMAGE_PIXELS = max_pixels
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    try:
        png = decode(sys.stdin.buffer.read(), format_)
    except MemoryError:
        return _refuse("needs more memory than a picture may")
    except Exception as error:  # noqa: BLE001 (libraries raise what they like at bad bytes)
        if "MAX_TEXT" in str(error):  # Pillow's limits on what it unpacks beside the picture
            return _refuse("holds too much text or too large a profile; save it again without")
        return _refuse(f"is damaged or cut off: {error or type(error).__name__}")
    sys.stdout.buffer.write(png)
    return 0


def decode(data: bytes, format_: str) -> bytes:
    """The picture as a PNG: upright, sRGB, 8 bits, with its alpha if it has any, nothing else."""
    with Image.open(io.BytesIO(data), formats=[format_]) as checked:
        checked.verify()
    with Image.open(io.BytesIO(data), formats=[format_]) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise ValueError("it is animated")
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        plain = _plain(image)
    plain.info = {}
    written = io.BytesIO()
    plain.save(written, "PNG", compress_level=_FAST)
    return written.getvalue()


def _plain(image: Image.Image) -> Image.Image:
    """RGB or RGBA in sRGB; without a copy where it is that already."""
    profile = image.info.get("icc_profile")
    if image.mode == "I;16":
        # Pillow's own conversion clips instead of scaling; it knows no transparent grey of 16 bits.
        image = image.convert("I").point([value >> 8 for value in range(65536)], "L")
        image.info = {}
    if not image.has_transparency_data:
        return _in_srgb(image, profile)
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    if profile:
        alpha = rgba.getchannel("A")
        rgba = _in_srgb(rgba.convert("RGB"), profile)
        rgba.putalpha(alpha)
    return rgba


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        # A profile that is broken, or that is of another sort than the picture, says nothing.
        with suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):
            given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            source = image if image.mode in {"L", "RGB", "CMYK"} else image.convert("RGB")
            converted = ImageCms.profileToProfile(
                source, given, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            if converted:
                return converted
    return image if image.mode == "RGB" else image.convert("RGB")


def _limit() -> None:
    """What the system lacks (macOS has no limit on memory) the parent's clock has to do."""
    if resource is None:
        return
    for name, limit in (
        ("RLIMIT_AS", MEMORY_BYTES),
        ("RLIMIT_CPU", CPU_S),
        ("RLIMIT_FSIZE", 0),
        ("RLIMIT_CORE", 0),
        ("RLIMIT_NPROC", 0),
        ("RLIMIT_NOFILE", 3),
    ):
        if hasattr(resource, name):
            with suppress(OSError, ValueError):
                resource.setrlimit(getattr(resource, name), (limit, limit))


def _refuse(reason: str) -> int:
    sys.stdout.buffer.write(reason.encode(errors="replace")[:200])
    return REFUSED


if __name__ == "__main__":
    sys.exit(main())
