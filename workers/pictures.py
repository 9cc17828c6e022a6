"""The pictures that a job starts from, as a model wants them."""

from io import BytesIO

from PIL import Image, ImageOps

from workers.family import Input


def opened(given: Input) -> Image.Image:
    """The picture in RGB. What is transparent becomes white."""
    with Image.open(BytesIO(given.data)) as image:
        if not image.has_transparency_data:
            return image.convert("RGB")
        layer = image.convert("RGBA")
    flat = Image.new("RGB", layer.size, "white")
    flat.paste(layer, mask=layer)
    return flat


def covering(given: Input, size: tuple[int, int]) -> Image.Image:
    """The picture in RGB, scaled and cropped around its middle to cover ``size`` in pixels."""
    return ImageOps.fit(opened(given), size, Image.Resampling.LANCZOS)


def covering_mask(given: Input, size: tuple[int, int]) -> Image.Image:
    """The mask in grey, of the same size and by the same crop; white is repainted."""
    with Image.open(BytesIO(given.data)) as image:
        return ImageOps.fit(image.convert("L"), size, Image.Resampling.BILINEAR)


def kept(made: Image.Image, original: Image.Image, mask: Image.Image) -> Image.Image:
    """What was made where the mask is white, and the original, to the pixel, where it is black."""
    made = made.convert("RGB").resize(original.size, Image.Resampling.LANCZOS)
    return Image.composite(made, original, mask)
