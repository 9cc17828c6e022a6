"""The architectures that can be trained from scratch, each with what can be said of it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Width = Annotated[int, Field(ge=4, le=2048)]
Widths = Annotated[tuple[Width, ...], Field(min_length=2, max_length=6)]
Heads = Annotated[int, Field(ge=1, le=64)]
Steps = Annotated[int, Field(ge=1, le=10_000_000)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


GAN_SIDES_PX = (32, 64, 128)
"""Of the pictures that a GAN can make."""


class GanArchitecture(_Part):
    """A DCGAN (Radford et al. 2015, arXiv:1511.06434), conditional on captions if they are few."""

    type: Literal["gan"]
    loss: Annotated[
        Literal["bce", "hinge"],
        Field(
            description="bce: real = 1, fake = 0, the generator against flipped labels "
            "(Goodfellow et al. 2014); hinge: Lim and Ye 2017."
        ),
    ] = "bce"
    latent: Annotated[int, Field(ge=2, le=1024)] = 64
    width: Annotated[
        int,
        Field(
            ge=4,
            le=512,
            description="Channels next to the picture; they double wherever the sides halve.",
        ),
    ] = 32
    labels: Annotated[
        bool, Field(description="Whether each caption is a class that jobs can ask for.")
    ] = False
    generator_steps: Annotated[
        int, Field(ge=1, le=10, description="Of the generator for each of the discriminator.")
    ] = 1


class VaeArchitecture(_Part):
    """An ``AutoencoderKL`` (Kingma and Welling 2013, arXiv:1312.6114; Rombach et al. 2021)."""

    type: Literal["vae"]
    widths: Widths = (16, 32, 64, 64)
    latent_channels: Annotated[int, Field(ge=1, le=64)] = 4
    kl_weight: Annotated[float, Field(ge=0, le=10)] = 1e-6
    gradient_weight: Annotated[
        float, Field(ge=0, le=10, description="Of the difference between neighbouring pixels.")
    ] = 0.5


class Composing(_Part):
    """That pictures are cut-outs, put on plain backgrounds at random places.

    Their captions are the items' names; what is learnt are captions such as `a mug on a red
    background`.
    """

    held_out: Annotated[
        float,
        Field(
            ge=0,
            le=0.5,
            description="The share of the pairs of item and background that are never learnt.",
        ),
    ] = 0.1
    plain_until: Annotated[
        Share, Field(description="Up to this share of the steps captions are of one form.")
    ] = 0.5


class Autoencoder(_Part):
    """An ``AutoencoderTiny`` (Bohan 2023), trained first: a side is 8 times that of its latent."""

    width: Width = 48
    down: Annotated[tuple[int, int, int, int], Field(description="Blocks of each level.")] = (
        1,
        2,
        2,
        2,
    )
    up: tuple[int, int, int, int] = (2, 2, 2, 1)
    latent_channels: Annotated[int, Field(ge=1, le=64)] = 8
    steps: Steps = 6000
    batch: Annotated[int, Field(ge=1, le=1024)] = 32
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    crop_px: Annotated[int, Field(ge=16, le=1024, multiple_of=8)] = 64
    whole_from: Annotated[
        Share, Field(description="From this share of its steps on whole pictures are seen.")
    ] = 0.75
    noise: Annotated[float, Field(ge=0, le=1, description="On the latents.")] = 0.05
    gradient_weight: Annotated[float, Field(ge=0, le=10)] = 0.5


class TextEncoder(_Part):
    """A small CLIP text model with a BPE of its own, made from the captions."""

    layers: Annotated[int, Field(ge=1, le=24)] = 2
    width: Width = 128
    heads: Heads = 4
    vocabulary: Annotated[int, Field(ge=520, le=49408)] = 800
    max_tokens: Annotated[int, Field(ge=8, le=77)] = 32


DENOISER_GROUPS = 16
"""Of its group norms, so that all its widths are multiples of it."""


class Denoiser(_Part):
    """A ``UNet2DConditionModel`` on the latents; all but its first level attend to the text."""

    widths: Widths = (64, 96, 112)
    heads: Annotated[tuple[Heads, ...], Field(min_length=2, max_length=6)] = (2, 3, 4)
    layers: Annotated[int, Field(ge=1, le=4)] = 1


class Judge(_Part):
    """A classifier of the items, trained before all else on the same pictures.

    It says how many items can be recognised: in reconstructed pictures, and in generated ones.
    """

    steps: Steps = 1500
    batch: Annotated[int, Field(ge=1, le=1024)] = 64
    gate: Annotated[
        Share,
        Field(
            description="The share of items that it must recognise in reconstructed pictures, "
            "or the training ends before the denoiser is begun."
        ),
    ] = 0.95


class TextToImageArchitecture(_Part):
    """A ``StableDiffusionPipeline`` with a small autoencoder, text encoder and denoiser.

    Flow matching (Lipman et al. 2022, arXiv:2210.02747) with logit-normal times (Esser et al.
    2024, arXiv:2403.03206).
    """

    type: Literal["text-to-image"]
    compose: Composing | None = None
    autoencoder: Autoencoder = Autoencoder()
    text_encoder: TextEncoder = TextEncoder()
    denoiser: Denoiser = Denoiser()
    judge: Judge | None = None
    bank: Annotated[
        int, Field(ge=1, le=1_000_000, description="Latents that are computed at a time.")
    ] = 40_000
    banks: Annotated[int, Field(ge=1, le=100, description="How often they are renewed.")] = 2
    caption_dropout: Share = 0.1
    guidance: Annotated[
        tuple[Annotated[float, Field(ge=1, le=30)], ...],
        Field(
            min_length=1,
            max_length=8,
            description="The best of these, by the judge, becomes the model's default.",
        ),
    ] = (3.0,)


Architecture = Annotated[
    GanArchitecture | VaeArchitecture | TextToImageArchitecture, Field(discriminator="type")
]

ARCHITECTURES: Mapping[str, type[BaseModel]] = MappingProxyType(
    {
        "gan": GanArchitecture,
        "vae": VaeArchitecture,
        "text-to-image": TextToImageArchitecture,
    }
)
"""By their type."""
