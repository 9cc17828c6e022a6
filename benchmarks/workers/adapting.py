"""Many adapters: in one batch, one after the other, and against one alone."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, alternated, ratio, shown
from benchmarks.workers.loads import SEED, Load, uniform
from benchmarks.workers.plant import Plant
from benchmarks.workers.scale import Scale
from benchmarks.workers.warming import Numbers, warm

ADAPTERS = 8
RANK = 8
WAVES = 10
"""Batches of each side; each is claimed when the one before is done."""


def measure(plant: Plant, load: Load, scale: Scale) -> Iterator[Figure]:
    """Both figures of adapters, through the product."""
    numbers = Numbers()
    one = replace(load, sizes=load.sizes[:1])
    names = [f"{load.name}-adapter-{number}" for number in range(ADAPTERS)]
    write_adapters(load, plant.ground.folder / "adapters", names)
    for name in names:
        plant.add_adapter(load, plant.ground.folder / "adapters" / name, name)
    each = max(one.batch // ADAPTERS, 1)
    waves = WAVES if scale.full else 1
    with plant.worker(scale.one) as _:

        def wave(creatives: Sequence[dict[str, Any]]) -> float:
            count = each * ADAPTERS // len(creatives)
            pictures = uniform(one, count, numbers.take(count))
            return plant.span_s(plant.submit_campaign(one, pictures, creatives))

        of = [{"adapters": [{"name": name}]} for name in names]
        alone = of[:1]
        # Another guidance is another batch key, and else the same work.
        apart = [{**use, "guidance": one.guidance + n / 100} for n, use in enumerate(of)]
        for creatives in (alone, of, apart):
            warm(plant, [one], numbers, make=partial(wave, creatives))
        found = alternated(
            waves,
            one=lambda: wave(alone),
            together=lambda: wave(of),
            apart=lambda: wave(apart),
        )
    detail = (
        f"{one.name}, {each * ADAPTERS} jobs, rank {RANK}, claim to commit: "
        f"{shown(found['one'], 's', 2)} with one adapter, not fused; "
        f"{shown(found['together'], 's', 2)} with {ADAPTERS} in one batch; "
        f"{shown(found['apart'], 's', 2)} with a batch for each of them"
    )
    yield Figure(
        "adapters_in_one_batch",
        ratio(found["one"], found["together"]),
        0.8,
        "of the rate with one adapter",
        detail,
        at_least=True,
    )
    # No batch of several adapters can win more than one of a single adapter does.
    most = ratio(found["apart"], found["one"])
    yield Figure(
        "adapters_against_flushing",
        ratio(found["apart"], found["together"]),
        min(0.8 * most, 2),
        "times the rate of a batch per adapter",
        f"{detail}; if all had one adapter it would be {most:.2f} times, which is what batching "
        "pays here",
        at_least=True,
    )


def write_adapters(load: Load, folder: Path, names: Sequence[str]) -> None:
    """LoRAs of the denoiser's attention with seeded weights, as diffusers saves them."""
    import peft  # noqa: PLC0415 (torch)
    import torch  # noqa: PLC0415

    from workers import pipelines  # noqa: PLC0415

    pipeline = pipelines.load(Path(load.folder), torch.float32)
    part = "transformer" if getattr(pipeline, "transformer", None) else "unet"
    denoiser = getattr(pipeline, part)
    config = peft.LoraConfig(
        r=RANK,
        lora_alpha=RANK,
        init_lora_weights=False,
        target_modules=["to_q", "to_k", "to_v", "to_out.0"],
    )
    denoiser.add_adapter(config)
    for number, name in enumerate(names):
        generator = torch.Generator().manual_seed(SEED + number)
        weights = {
            key: torch.randn(tensor.shape, generator=generator) * 0.05
            for key, tensor in peft.get_peft_model_state_dict(denoiser).items()
        }
        pipeline.save_lora_weights(folder / name, **{f"{part}_lora_layers": weights})
