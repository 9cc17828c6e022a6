"""PNG files that say where they come from."""

from io import BytesIO
from uuid import UUID

from PIL.Image import RLE, Image
from PIL.PngImagePlugin import PngInfo


def encode_png(image: Image, *, job_id: UUID, seed: int) -> bytes:
    """The picture with the text chunks ``Software``, ``presswork:job`` and ``presswork:seed``.

    No prompt: it may hold personal data, and pictures travel.
    """
    info = PngInfo()
    info.add_text("Software", "Presswork")
    info.add_text("presswork:job", str(job_id))
    info.add_text("presswork:seed", str(seed))
    buffer = BytesIO()
    # Nothing is looked for but runs: in what PNG's filters leave of a photograph there is little
    # else. With Pillow 13 (zlib-ng) on pictures of 1024 px, in ms and kB, against level 1 as it
    # is and level 6: photo-like 174, 2514 (244, 2564; 245, 2514), flat 11, 5 (11, 16; 18, 5),
    # noise 176, 3151 (152, 3148; 248, 3151). At 128 px: photo-like 1.0, 42 (1.3, 42; 1.4, 42).
    image.save(buffer, "PNG", pnginfo=info, compress_level=1, compress_type=RLE)
    return buffer.getvalue()
