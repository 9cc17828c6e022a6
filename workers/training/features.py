"""What pictures are compared by: the features that a network sees in them."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from workers.training.judges import Judge, as_tensor

SIDE_PX = 64
WIDTH = 8
STAGES = 4
SEED = 1
"""Of the random network's weights: with another one, numbers cannot be compared any more."""
AT_ONCE = 64

Features = NDArray[np.float64]
"""Of N pictures: (N, D)."""


class RandomNetwork(nn.Module):  # type: ignore[misc]  # mypy does not follow torch
    """A convolutional network that has learnt nothing, so that nothing must be fetched for it.

    Random convolutions rank generative models much as learnt ones do, and better where pictures
    are unlike photographs: Naeem et al. 2020 (arXiv:2002.09797), Lee et al. 2022
    (arXiv:2208.09218). They see edges and textures; what an item is they do not know, a `Judge`
    does. The features are the picture's mean colour, and what each filter of each stage answers on
    average over the picture.
    """

    side_px = SIDE_PX

    def __init__(self) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(SEED)  # a training's own draws stay as they are
        for stage in range(STAGES):
            channels = WIDTH if stage else 3
            # He et al. 2015 (arXiv:1502.01852): the variance is the same in each stage.
            scale = (2 / (9 * channels)) ** 0.5
            weights = scale * torch.randn(WIDTH, channels, 3, 3, generator=draws)
            # Without a mean: what is plain answers nothing, or the colours of backgrounds would
            # outweigh all else. On 256 compositions a slight blur (radius 0.5) is told from chance
            # by 5 standard deviations so, and by 0.2 with it.
            self.register_buffer(f"stage_{stage}", weights - weights.mean(dim=(2, 3), keepdim=True))
        self.eval()

    def features(self, pictures: Tensor) -> Tensor:
        """What it sees in pictures (N, 3, H, W) from -1 to 1, (N, 3 + STAGES x WIDTH)."""
        size = (self.side_px, self.side_px)
        if pictures.shape[-2:] != size:
            pictures = functional.interpolate(pictures, size, mode="bilinear", antialias=True)
        answers = [pictures.mean(dim=(2, 3))]
        for stage in range(STAGES):
            weights = getattr(self, f"stage_{stage}")
            # Zeros around it would be an edge, as strong as the colour is far from grey.
            padded = functional.pad(pictures, (1, 1, 1, 1), mode="replicate")
            pictures = functional.relu(functional.conv2d(padded, weights, stride=2))
            answers.append(pictures.mean(dim=(2, 3)))
        return torch.cat(answers, dim=1)


Extractor = Judge | RandomNetwork
"""Numbers are comparable within one extractor alone, with the same weights."""


@torch.inference_mode()  # type: ignore[untyped-decorator]
def features_of(extractor: Extractor, pictures: Tensor | Sequence[Image.Image]) -> Features:
    """The features of pictures: (N, 3, H, W) from -1 to 1, or of any size and mode."""
    if not isinstance(pictures, Tensor):
        pictures = as_tensor([square(picture, extractor.side_px) for picture in pictures])
    device = next(iter(extractor.state_dict().values())).device
    parts = [
        extractor.features(some.to(device, torch.float32)).double().cpu().numpy()
        for some in pictures.split(AT_ONCE)
    ]
    return np.concatenate(parts)


def square(picture: Image.Image, side_px: int) -> Image.Image:
    """RGB: the middle of it, and white where it is transparent, as a browser would show it."""
    if picture.mode != "RGB":
        shown = picture.convert("RGBA")
        white = Image.new("RGBA", shown.size, "white")
        picture = Image.alpha_composite(white, shown).convert("RGB")
    side = min(picture.size)
    left, top = ((length - side) // 2 for length in picture.size)
    box = (left, top, left + side, top + side)
    return picture.resize((side_px, side_px), Image.Resampling.BILINEAR, box)


def spread(features: Features) -> Features:
    """The standard deviation of each feature (D,), by which it is comparable with the others."""
    deviation = features.std(axis=0)
    return np.where(deviation > 0, deviation, 1)
