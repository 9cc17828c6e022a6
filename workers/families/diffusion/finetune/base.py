"""The base of a training: loaded, frozen, and with a LoRA on its denoiser."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import BitsAndBytesConfig, PipelineQuantizationConfig, TorchAoConfig
from peft import LoraConfig
from torch import Tensor, nn

from jobs.trainings.requests import FinetuneRequest
from workers import pipelines
from workers.families.diffusion.capabilities import CAPABILITIES
from workers.families.diffusion.denoiser import Denoiser
from workers.families.diffusion.finetune.hooks import HOOKS
from workers.families.diffusion.finetune.hooks.hook import Hook
from workers.families.diffusion.siblings import Sibling, Siblings
from workers.family import Device
from workers.training import precision

_PACKAGES = {"int8": "torchao", "nf4": "bitsandbytes"}


@dataclass(frozen=True)
class Base:
    """A pipeline with a LoRA that learns; ``lora`` has its parameters, and no others."""

    hook: Hook
    sibling: Sibling
    lora: nn.Module
    device: str

    @property
    def name(self) -> str:
        """The class's."""
        return type(self.hook.pipeline).__name__

    def rest(self) -> None:
        """Take what only encodes and decodes off a GPU: a step needs the denoiser alone."""
        self._move("cpu")

    def wake(self) -> None:
        """Bring it back."""
        self._move(self.device)

    def _move(self, device: str) -> None:
        for part in self.hook.pipeline.components.values():
            if isinstance(part, nn.Module) and part is not self.hook.denoiser:
                part.to(device)


def load(files: Path, request: FinetuneRequest, device: Device) -> Base:
    """The base in ``files`` with a LoRA of random ``down`` and zero ``up`` matrices on it.

    The LoRA is drawn from torch's global generator. On a GPU what does not learn is in the
    precision of the passes; the VAE, which overflows easily, stays in float32.

    Raises:
        ValueError: see `pipelines.check_files`; it is of no class that is trained here; or it
            cannot be quantized so on this device.
    """
    assert request.rank
    assert request.alpha
    kind = pipelines.check_files(files)
    capabilities = CAPABILITIES.get(kind)
    plain = capabilities.tasks["text-to-image"] if capabilities else kind
    if capabilities is None or plain not in HOOKS:
        raise ValueError(f"model: is a {kind}, and adapters are trained for {', '.join(HOOKS)}")
    dtype = torch.float32
    if device.type == "cuda":
        dtype = precision.dtype_of(request.precision, device)
    pipeline = pipelines.load(files, dtype, _quantization(request, device))
    sibling = Siblings(pipeline, capabilities).get("text-to-image")
    pipeline = sibling.pipeline
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False).eval()
    pipeline.vae.to(torch.float32)
    hook = HOOKS[plain](pipeline)
    denoiser = hook.denoiser
    denoiser.to(device.type)
    denoiser.add_adapter(
        LoraConfig(
            r=request.rank,
            lora_alpha=request.alpha,
            target_modules=list(hook.targets),
            init_lora_weights="gaussian",
        )
    )
    if request.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    base = Base(hook, sibling, _Lora(denoiser), device.type)
    base.wake()
    return base


def denoiser_name(hook: Hook) -> str:
    """What the pipeline calls its denoiser."""
    name = Denoiser(hook.pipeline).name
    assert name
    return name


class _Lora(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """The parameters of a LoRA alone: a checkpoint needs nothing else of the denoiser."""

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        for name, parameter in denoiser.named_parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
                self.register_parameter(name.replace(".", "/"), parameter)


def scaled_up(hook: Hook, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The matrices of a LoRA with its alpha in the second: then alpha is the rank."""
    config = hook.denoiser.peft_config["default"]
    factor = config.lora_alpha / config.r
    return {name: one * factor if ".lora_B." in name else one for name, one in tensors.items()}


def _quantization(request: FinetuneRequest, device: Device) -> Any:
    """What diffusers is to do with the weights of the denoiser; None: nothing."""
    how = request.quantize
    if how == "none":
        return None
    if device.type != "cuda":
        raise ValueError(
            f"quantize: {how} needs a GPU, and this worker has none: say none, or a pool with GPUs"
        )
    package = _PACKAGES[how]
    if importlib.util.find_spec(package) is None:
        raise ValueError(
            f"quantize: {how} needs the package {package}, which is not installed on this worker"
        )
    return quantization_of(how)


def quantization_of(how: str) -> Any:
    """The same, on any device. Dettmers et al. 2023 (arXiv:2305.14314) for nf4."""
    if how == "int8":
        from torchao.quantization import Int8WeightOnlyConfig  # noqa: PLC0415 (an extra)

        config = TorchAoConfig(Int8WeightOnlyConfig())
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    return PipelineQuantizationConfig(quant_mapping={"unet": config, "transformer": config})
