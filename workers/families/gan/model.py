"""The networks of a GAN: a generator and a discriminator in DCGAN's shape.

The shape is that of Radford et al. 2015 (arXiv:1511.06434): strided convolutions, no pooling,
batch norm and ReLU in the generator, leaky ReLU in the discriminator. With classes, the generator
reads an embedding of the class beside its latent (Mirza and Osindero 2014, arXiv:1411.1784), and
the discriminator adds the inner product of another with its features (Miyato and Koyama 2018,
arXiv:1802.05637).
"""

from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

ClassName = Annotated[str, Field(min_length=1, max_length=200)]


class GanConfig(BaseModel):
    """The sizes of both networks: ``config.json`` beside their weights.

    ``channels`` is the width next to the picture; it doubles wherever the sides halve.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    size_px: Literal[32, 64, 128]
    latent_size: Annotated[int, Field(ge=1, le=1024)]
    channels: Annotated[int, Field(ge=1, le=512)]
    class_names: Annotated[tuple[ClassName, ...], Field(max_length=10_000)] = ()

    @property
    def widths(self) -> list[int]:
        """Channels at 4x4, 8x8, ... up to half of ``size_px``."""
        halvings = self.size_px.bit_length() - 3
        return [self.channels * 2**n for n in reversed(range(halvings))]


class Generator(nn.Module):  # type: ignore[misc]  # mypy does not follow torch
    """From latents to pictures.

    In evaluation mode batch norm uses its running statistics, so that a picture does not depend on
    those made with it.
    """

    def __init__(self, config: GanConfig) -> None:
        super().__init__()
        classes, latent, widths = len(config.class_names), config.latent_size, config.widths
        self.embedding = nn.Embedding(classes, latent) if classes else None
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(latent * (2 if classes else 1), widths[0], 4, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        ]
        for wide, narrow in pairwise(widths):
            layers += [
                nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(narrow),
                nn.ReLU(),
            ]
        layers += [nn.ConvTranspose2d(widths[-1], 3, 4, stride=2, padding=1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: Tensor, classes: Tensor | None = None) -> Tensor:
        """Pictures (B, 3, size, size) from -1 to 1.

        ``latents`` are (B, latent_size); ``classes`` (B,) are given if the model has any.
        """
        if self.embedding is not None:
            latents = torch.cat([latents, self.embedding(classes)], dim=1)
        pictures: Tensor = self.layers(latents[:, :, None, None])
        return pictures


class Discriminator(nn.Module):  # type: ignore[misc]  # as above
    """From pictures to logits: how far each looks like those that it was trained on.

    Spectral norm (Miyato et al. 2018, arXiv:1802.05957) in place of DCGAN's batch norm: also in
    training an answer then concerns one picture alone, and both usual losses, hinge and binary
    cross entropy, stay stable.
    """

    def __init__(self, config: GanConfig) -> None:
        super().__init__()
        classes, widths = len(config.class_names), config.widths[::-1]
        layers: list[nn.Module] = []
        for narrow, wide in pairwise([3, *widths]):
            convolution = nn.Conv2d(narrow, wide, 4, stride=2, padding=1)
            layers += [spectral_norm(convolution), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers)
        self.head = spectral_norm(nn.Conv2d(widths[-1], 1, 4))
        self.embedding = spectral_norm(nn.Embedding(classes, widths[-1])) if classes else None

    def forward(self, pictures: Tensor, classes: Tensor | None = None) -> Tensor:
        """Logits (B,) for pictures and classes as of the generator."""
        features = self.layers(pictures)
        logits: Tensor = self.head(features).flatten()
        if self.embedding is not None:
            logits = logits + (self.embedding(classes) * features.sum((2, 3))).sum(1)
        return logits
