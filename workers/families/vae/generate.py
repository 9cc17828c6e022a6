"""Pictures into latents, latents into pictures; what happens between is the mode's."""

from collections.abc import Iterator, Sequence

import diffusers
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from jobs.kinds.sizes import parse_size
from jobs.kinds.vae import TAKES, VAE, VaeRequest
from workers.encoding import picture_output
from workers.families.vae.load import Loaded
from workers.family import Context, Item, JobError, Output
from workers.pictures import covering

MAX_BATCH = 16

PARALLEL = 1e-3
"""Below this sine of the angle between two latents, what divides by it is not exact enough."""


def generate(
    model: Loaded, items: Sequence[Item], context: Context
) -> Iterator[tuple[int, list[Output] | JobError]]:
    """The pictures of ``items``, which share mode, size and steps.

    One call encodes an input of all items, one decodes a picture of each; a step is such a call.
    """
    shared = _vae_request(items[0])
    inputs = [field for field in VAE.inputs if field in TAKES[shared.mode]]
    count = shared.steps or 1
    total = len(inputs) + count
    given = []
    outputs: list[list[Output]] = [[] for _ in items]
    with torch.inference_mode():
        for done, field in enumerate(inputs, 1):
            given.append(
                _encode(model, [covering(item.inputs[field][0], _size(item)) for item in items])
            )
            context.step(done, total)
        for number in range(count):
            position = number / (count - 1) if count > 1 else None
            pictures = _decode(model, _latents(model, items, given, position))
            for made, item, picture in zip(outputs, items, pictures, strict=True):
                made.append(_output(item, picture, position))
            context.step(len(inputs) + number + 1, total)
    yield from enumerate(outputs)


def slerp(a: Tensor, b: Tensor, position: float) -> Tensor:
    """From ``a`` (B, C, H, W) at 0 to ``b`` at 1 on the arc between them.

    Shoemake 1985; for latents White 2016 (arXiv:1609.04468): a straight line would lead through
    latents shorter than those of pictures. Between two that are almost parallel it is as good.
    """
    cosine = torch.nn.functional.cosine_similarity(a.flatten(1), b.flatten(1))
    angle = cosine.clamp(-1, 1).acos().view(-1, 1, 1, 1)
    arc = ((1 - position) * angle).sin() * a + (position * angle).sin() * b
    return torch.where(angle.sin() > PARALLEL, arc / angle.sin(), torch.lerp(a, b, position))


def _latents(
    model: Loaded, items: Sequence[Item], given: Sequence[Tensor], position: float | None
) -> Tensor:
    """The latents to decode, one an item, of mean 0 and variance 1 as ``given``."""
    match _vae_request(items[0]).mode:
        case "reconstruct":
            return given[0]
        case "vary":
            # A step of the variance-preserving noise of diffusion models (Ho et al. 2020,
            # arXiv:2006.11239, equation 4). The posterior's own variance would hardly be seen:
            # autoencoders are trained with next to no weight on it.
            strengths = [_vae_request(item).strength for item in items]
            strength = torch.tensor(strengths).view(-1, 1, 1, 1).to(given[0])
            return (1 - strength**2).sqrt() * given[0] + strength * _noise(model, items)
        case "interpolate":
            assert position is not None
            return slerp(given[0], given[1], position)
        case "sample":
            return _noise(model, items)


def _noise(model: Loaded, items: Sequence[Item]) -> Tensor:
    """Latents of the prior, each from its own seed, drawn on the CPU."""
    width, height = _size(items[0])
    channels = model.autoencoder.config.latent_channels
    shape = (channels, height // model.factor, width // model.factor)
    drawn = [
        torch.randn(shape, generator=torch.Generator("cpu").manual_seed(item.seed))
        for item in items
    ]
    return torch.stack(drawn).to(model.autoencoder.device)


def _encode(model: Loaded, pictures: Sequence[Image.Image]) -> Tensor:
    """The means of the posteriors, as latents of mean 0 and variance 1."""
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    vae = model.autoencoder
    scaled = (pixels.permute(0, 3, 1, 2) / 127.5 - 1).to(vae.device, vae.dtype)
    latents = vae.encode(scaled).latent_dist.mode().float()
    standard: Tensor = (latents - model.mean) / model.std
    return standard


def _decode(model: Loaded, latents: Tensor) -> list[Image.Image]:
    vae = model.autoencoder
    made = vae.decode((latents * model.std + model.mean).to(vae.dtype)).sample.float()
    pixels = ((made.clamp(-1, 1) + 1) * 127.5).round().byte()
    return [Image.fromarray(pixels) for pixels in pixels.permute(0, 2, 3, 1).cpu().numpy()]


def _output(item: Item, picture: Image.Image, position: float | None) -> Output:
    request = _vae_request(item)
    facts = {
        "width": picture.width,
        "height": picture.height,
        "mode": request.mode,
        "diffusers": diffusers.__version__,
        "torch": str(torch.__version__),
    }
    if request.strength is not None:
        facts["strength"] = request.strength
    if position is not None:
        facts["position"] = position
    return picture_output(
        lambda: picture, request.format, job_id=item.job_id, seed=item.seed, facts=facts
    )


def _size(item: Item) -> tuple[int, int]:
    size = _vae_request(item).size
    assert size is not None
    return parse_size(size)


def _vae_request(item: Item) -> VaeRequest:
    assert isinstance(item.request, VaeRequest)
    return item.request
