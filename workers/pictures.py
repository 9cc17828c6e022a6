"""The pictures that a job starts from, as a model wants them."""

from io import BytesIO

from PIL import Image, ImageOps

from workers.family import Input


def opened(given: Input) -> Image.Image:
    """The picture in RGB. What is transparent becomes white."""
    with Image.open(BytesIO(given.data)) as image:
        return on_white(image)


def on_white(image: Image.Image) -> Image.Image:
    """The picture in RGB. What is transparent becomes white."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    flat = Image.new("RGB", layer.size, "white")
    flat.paste(layer, mask=layer)
    return flat


def covering(
    given: Input, size: tuple[int, int], within: tuple[int, int] | None = None
) -> Image.Image:
    """The picture in RGB, scaled and cropped around its middle to cover ``size`` in pixels.

    ``within``: it is that part of it which is seen of a picture that covers that size first.
    """
    return _fitted(opened(given), size, within, Image.Resampling.LANCZOS)


def covering_mask(
    given: Input, size: tuple[int, int], within: tuple[int, int] | None = None
) -> Image.Image:
    """The mask in grey, of the same size and by the same crop; white is repainted."""
    with Image.open(BytesIO(given.data)) as image:
        return _fitted(image.convert("L"), size, within, Image.Resampling.BILINEAR)


def fitted(made: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture at exactly ``size``, scaled and cropped around its middle where it differs."""
    return made if made.size == size else ImageOps.fit(made, size, Image.Resampling.LANCZOS)


def kept(made: Image.Image, original: Image.Image, mask: Image.Image) -> Image.Image:
    """What was made where the mask is white, and the original, to the pixel, where it is black."""
    made = ImageOps.fit(made.convert("RGB"), original.size, Image.Resampling.LANCZOS)
    return Image.composite(made, original, mask)


def _fitted(
    image: Image.Image,
    size: tuple[int, int],
    within: tuple[int, int] | None,
    method: Image.Resampling,
) -> Image.Image:
    if within is None or within == size:
        return ImageOps.fit(image, size, method)
    # Both crops at once, so that nothing is scaled twice.
    width, height = _cropped(_cropped(image.size, within), size)
    left, top = (image.width - width) / 2, (image.height - height) / 2
    return image.resize(size, method, (left, top, left + width, top + height))


def _cropped(size: tuple[float, float], shape: tuple[int, int]) -> tuple[float, float]:
    """The largest part of ``size`` that has the proportions of ``shape``."""
    scale = min(size[0] / shape[0], size[1] / shape[1])
    return shape[0] * scale, shape[1] * scale
