"""How each class of pipeline that adapters are trained for encodes, adds noise, and predicts."""

from collections.abc import Mapping
from types import MappingProxyType

from workers.families.diffusion.finetune.hooks.hook import Hook
from workers.families.diffusion.finetune.hooks.transformers import (
    Flux,
    QwenImage,
    Sana,
    StableDiffusion3,
    ZImage,
)
from workers.families.diffusion.finetune.hooks.unets import StableDiffusion, StableDiffusionXL

HOOKS: Mapping[str, type[Hook]] = MappingProxyType(
    {
        "StableDiffusionPipeline": StableDiffusion,
        "StableDiffusionXLPipeline": StableDiffusionXL,
        "StableDiffusion3Pipeline": StableDiffusion3,
        "FluxPipeline": Flux,
        "SanaPipeline": Sana,
        "QwenImagePipeline": QwenImage,
        "ZImagePipeline": ZImage,
    }
)
"""By the class's name; `jobs.trainings.bases.PIPELINES` has the usual values for the same."""
