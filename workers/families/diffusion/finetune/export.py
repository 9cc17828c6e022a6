"""The files of a LoRA that has been trained: by diffusers' names, and by kohya's."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.utils import convert_state_dict_to_kohya
from peft import get_peft_model_state_dict
from torch import Tensor

from jobs.trainings.requests import FinetuneRequest
from storage.models import ModelCard
from workers.families.diffusion.finetune.base import Base, denoiser_name, scaled_up
from workers.training.data import Data
from workers.training.weights import write as write_weights

WEIGHTS = "pytorch_lora_weights.safetensors"
KOHYA = "kohya.safetensors"

_VERSIONS = {
    "StableDiffusionPipeline": "sd_v1",
    "StableDiffusionXLPipeline": "sdxl_base_v1-0",
    "FluxPipeline": "flux1",
    "QwenImagePipeline": "qwen_image",
    "ZImagePipeline": "z_image",
}
"""What kohya's trainers call the bases."""


@dataclass(frozen=True)
class Origin:
    """What a LoRA was made from."""

    request: FinetuneRequest
    data: Data
    card: ModelCard

    def facts(self) -> dict[str, str]:
        """As safetensors' metadata has it: texts."""
        request = self.request
        facts = {
            "base": self.card.name,
            "base_identity": self.card.identity,
            "base_licence": self.card.licence,
            "rank": str(request.rank),
            "alpha": f"{request.alpha:g}",
            "dataset": self.data.digest,
            "steps": str(request.steps),
            "size": str(request.size),
        }
        return facts | ({"trigger": self.data.trigger} if self.data.trigger else {})


def write(base: Base, origin: Origin, adapter: Path, beside: Path) -> None:
    """Write what is registered to the folder ``adapter``, and what is not to ``beside``."""
    for folder in (adapter, beside):
        folder.mkdir(parents=True, exist_ok=True)
    hook = base.hook
    part = denoiser_name(hook)
    tensors: dict[str, Tensor] = {
        name: one.detach().float().cpu().contiguous()
        for name, one in get_peft_model_state_dict(hook.denoiser).items()
    }

    def save(weights: Mapping[str, Tensor], path: str) -> None:
        ours = {f"presswork_{name}": value for name, value in origin.facts().items()}
        write_weights(Path(path), weights, {"format": "pt", **ours})

    hook.pipeline.save_lora_weights(
        adapter,
        **{f"{part}_lora_layers": scaled_up(hook, tensors)},
        weight_name=WEIGHTS,
        save_function=save,
    )
    if hook.kohya:
        converted = _by_kohya(hook.kohya, tensors, origin)
        facts = {"format": "pt", **_for_kohya(base, origin)}
        write_weights(beside / KOHYA, converted, facts)


def _by_kohya(prefix: str, tensors: Mapping[str, Tensor], origin: Origin) -> dict[str, Tensor]:
    alpha = torch.tensor(float(origin.request.alpha or 0))
    named = {f"{prefix}.{name}": one for name, one in tensors.items()}
    converted: dict[str, Tensor] = convert_state_dict_to_kohya(named)
    # It says the rank, which is not what ours was trained with.
    return {
        name: alpha.clone() if name.endswith(".alpha") else one for name, one in converted.items()
    }


def _for_kohya(base: Base, origin: Origin) -> dict[str, str]:
    request = origin.request
    facts = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(request.rank),
        "ss_network_alpha": str(float(request.alpha or 0)),
        "ss_output_name": request.name,
        "ss_sd_model_name": origin.card.identity,
        "ss_base_model_version": _VERSIONS[base.name],
        "ss_learning_rate": str(request.learning_rate),
        "ss_steps": str(request.steps),
        "ss_resolution": str(request.size),
        "ss_num_train_images": str(origin.data.count),
        "ss_seed": str(request.seed),
    }
    return facts | {"ss_training_comment": origin.data.trigger or ""}
