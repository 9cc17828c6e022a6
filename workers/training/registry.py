"""The trainings, by what is trained. Importing this imports torch."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from jobs.trainings.requests import FinetuneRequest
from workers.families.causal_lm.finetune import VoiceTuning
from workers.families.diffusion.finetune.train import DiffusionLora
from workers.families.diffusion.scratch.train import TextToImage
from workers.families.gan.train import GanTraining
from workers.families.vae.train import VaeTraining
from workers.training.trainer import Ground, Training

TRAINERS: Mapping[str, Callable[[Ground], Training]] = MappingProxyType(
    {
        "causal_lm": VoiceTuning,
        "diffusion": DiffusionLora,
        "gan": GanTraining,
        "text-to-image": TextToImage,
        "vae": VaeTraining,
    }
)
"""From scratch by the architecture's type; adapters by the model's family."""


def training_of(ground: Ground) -> Training:
    """The training that the request asks for, at its beginning.

    Raises:
        ValueError: it cannot be made of this model, or with these packages.
    """
    request = ground.request
    if isinstance(request, FinetuneRequest):
        assert ground.card
        return TRAINERS[ground.card.family](ground)
    return TRAINERS[request.architecture.type](ground)
