"""``python -m benchmarks.roofline``: how fast SDXL and FLUX could be on an H100, by arithmetic.

The models are built as they are, without memory for their weights (torch's meta device), and one
evaluation of each is counted. Nothing here has run on a GPU.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, UNet2DConditionModel
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

PEAK_FLOPS = 989e12
"""H100 SXM, dense bf16, by its data sheet."""
BYTES_PER_S = 3.35e12
"""Its memory's."""
BYTES = 2
"""Of a bf16 number."""
BATCHES = (1, 4, 8, 16)
SHARES = (1.0, 0.5, 0.35)
"""Of the bound. No kernel reaches all of the peak at every layer."""

SDXL_UNET: Mapping[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
FLUX_TRANSFORMER: Mapping[str, Any] = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
}
VAE: Mapping[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
"""What both models' autoencoders have in common."""


@dataclass(frozen=True)
class Part:
    """What a part of a pipeline takes, for pictures of 1024 px."""

    name: str
    times: int
    """How often it is evaluated."""
    rows: int
    """Of its input per picture: two with classifier-free guidance."""
    parameters: int
    flops: float
    """Of one evaluation of one row."""
    activations: float
    """Bytes that its products, convolutions and attentions read and write beside the weights."""

    @property
    def weights(self) -> float:
        """Bytes that are read once per call, however many pictures are in it."""
        return float(self.parameters * BYTES)

    def work(self, batch: int) -> tuple[float, float]:
        """FLOPs and bytes of one evaluation for so many pictures."""
        rows = batch * self.rows
        return rows * self.flops, self.weights + rows * self.activations

    def seconds(self, batch: int) -> float:
        """The least time for a batch: that of its arithmetic or of its memory, if that is more.

        Source: Williams et al. 2009, "Roofline: an insightful visual performance model".
        """
        flops, moved = self.work(batch)
        return self.times * max(flops / PEAK_FLOPS, moved / BYTES_PER_S)


class _Traffic(TorchFunctionMode):  # type: ignore[misc]  # mypy does not follow torch
    """Adds up the numbers that go in and out of layers that compute, as if all else was fused."""

    LAYERS = (functional.linear, functional.conv2d, functional.scaled_dot_product_attention)

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call ``func``, and note what it is given and gives if it computes."""
        answer = func(*args, **(kwargs or {}))
        if func in self.LAYERS:
            given = [*args, *(kwargs or {}).values(), answer]
            self.numbers += sum(each.numel() for each in given if isinstance(each, torch.Tensor))
        return answer


def counted(
    name: str, module: Any, call: Callable[[Any], Any], *, times: int, rows: int = 1
) -> Part:
    """The part that ``call`` evaluates for one row."""
    module.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as flops, _Traffic() as traffic:
        call(module)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    moved = float(traffic.numbers * BYTES)
    return Part(
        name,
        times,
        rows,
        parameters,
        flops=float(flops.get_total_flops()),
        activations=moved - parameters * BYTES,
    )


def sdxl() -> list[Part]:
    """30 steps with classifier-free guidance: two evaluations each, and one decoding."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SDXL_UNET)
        decoder = AutoencoderKL(latent_channels=4, **VAE)
        latents, words = torch.empty(1, 4, 128, 128), torch.empty(1, 77, 2048)
        more = {"text_embeds": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)}
        time = torch.empty(1)
        return [
            counted(
                "SDXL UNet",
                unet,
                lambda unet: unet(latents, time, words, added_cond_kwargs=more),
                times=30,
                rows=2,
            ),
            counted("SDXL VAE", *_decoding(decoder, latents), times=1),
        ]


def flux() -> list[Part]:
    """FLUX.1-dev: 28 steps, whose guidance is an input: one evaluation each, and one decoding."""
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(**FLUX_TRANSFORMER)
        decoder = AutoencoderKL(
            latent_channels=16, use_quant_conv=False, use_post_quant_conv=False, **VAE
        )
        given = {
            "hidden_states": torch.empty(1, 4096, 64),
            "encoder_hidden_states": torch.empty(1, 512, 4096),
            "pooled_projections": torch.empty(1, 768),
            "timestep": torch.empty(1),
            "guidance": torch.empty(1),
            "img_ids": torch.empty(4096, 3),
            "txt_ids": torch.empty(512, 3),
        }
        latents = torch.empty(1, 16, 128, 128)
        return [
            counted("FLUX transformer", transformer, lambda module: module(**given), times=28),
            counted("FLUX VAE", *_decoding(decoder, latents), times=1),
        ]


def _decoding(decoder: Any, latents: torch.Tensor) -> tuple[Any, Callable[[Any], Any]]:
    del decoder.encoder, decoder.quant_conv
    return decoder, lambda module: module.decode(latents)


def table_of_parts(parts: Sequence[Part]) -> str:
    """What each part takes per picture, in Markdown."""
    lines = [
        "| part | parameters | evaluations | FLOPs | in all | weights | activations | FLOPs/byte |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for part in parts:
        flops, moved = part.work(batch=1)
        lines.append(
            f"| {part.name} | {part.parameters / 1e9:.3f} B | {part.times} | "
            f"{flops / 1e12:.2f} T | {part.times * flops / 1e12:,.1f} T | "
            f"{part.weights / 1e9:.2f} GB | {(moved - part.weights) / 1e9:.2f} GB | "
            f"{flops / moved:,.0f} |"
        )
    return "\n".join(lines)


def table_of_bounds(pipelines: Mapping[str, Sequence[Part]]) -> str:
    """Images per second at most, in Markdown."""
    batches = " | ".join(f"batch {batch}" for batch in BATCHES)
    lines = [f"| images/s | of the bound | {batches} |", "|---|---|" + "---|" * len(BATCHES)]
    for name, parts in pipelines.items():
        bounds = [batch / sum(part.seconds(batch) for part in parts) for batch in BATCHES]
        for share in SHARES:
            rates = " | ".join(f"{bound * share:.3f}" for bound in bounds)
            lines.append(f"| {name} | {share:.0%} | {rates} |")
    return "\n".join(lines)


def tables() -> Iterator[str]:
    """All there is to print."""
    pipelines = {"SDXL, 30 steps": sdxl(), "FLUX.1-dev, 28 steps": flux()}
    yield table_of_parts([part for parts in pipelines.values() for part in parts])
    yield table_of_bounds(pipelines)


if __name__ == "__main__":
    print(*tables(), sep="\n\n")
