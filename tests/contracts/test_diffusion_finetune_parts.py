"""What trainings of LoRAs are made of: noise, masks, sizes, the prior, samples, and memory."""

import math
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from storage.models import BUILT_IN
from tests.contracts import tiny_pipelines
from tests.contracts.finetunes import (
    CPU,
    TRIGGER,
    Heard,
    data,
    ground,
    made,
    png,
    same,
    tensors,
    trained,
)
from tests.contracts.pictures import FAMILY, LEVEL, apart, item, pictures
from workers.families.diffusion import debug
from workers.families.diffusion.finetune import base, preflight
from workers.families.diffusion.finetune.export import WEIGHTS
from workers.families.diffusion.finetune.noising import Diffusion, Noising, noising_of
from workers.families.diffusion.finetune.pictures import (
    bucketed,
    caption_of,
    drawn,
    encoded,
    nearest,
    sizes_of,
)
from workers.families.diffusion.finetune.train import DiffusionLora
from workers.family import Adapter, Device
from workers.training.data import PictureItem

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

SD = "StableDiffusionPipeline"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion."""
    return tiny_pipelines.save(SD, tmp_path_factory.mktemp("sd"))


def scheduler(kind: str) -> Any:
    """One that solves what the denoiser predicts."""
    flow = kind == "flow_prediction"
    return diffusers.DPMSolverMultistepScheduler(
        prediction_type=kind,
        use_flow_sigmas=flow,
        flow_shift=3.0 if flow else 1.0,
        steps_offset=1,
    )


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow_prediction"])
def test_the_target_leads_back_to_the_picture(kind: str) -> None:
    """Whoever predicts the target exactly is led to the clean latents by the base's scheduler."""
    solver = scheduler(kind)
    noising: Noising = noising_of(solver, None)
    solver.set_timesteps(10)
    clean, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    for step in (2, 7):
        told = solver.timesteps[step]
        sigma = solver.sigmas[step]
        times = sigma[None] if kind == "flow_prediction" else told[None].long()
        assert float(noising.told(times)) == pytest.approx(float(told), abs=1)
        solver._step_index = step  # noqa: SLF001
        noisy, target = noising.mix(clean, noise, times), noising.target(clean, noise, times)
        found = solver.convert_model_output(target, sample=noisy)
        assert torch.allclose(found, clean, atol=1e-2)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_min_snr(kind: str) -> None:
    """Weights are those of Hang et al., of noise and of velocity each its own."""
    noising = noising_of(scheduler(kind), 5.0)
    assert isinstance(noising, Diffusion)
    times = torch.tensor([5, 500, 990])
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)[times]
    snr = alphas / (1 - alphas)
    expected = snr.clamp(max=5) / (snr if kind == "epsilon" else snr + 1)
    assert torch.allclose(noising.weights(times), expected, rtol=1e-3)
    with pytest.raises(ValueError, match="min_snr_gamma"):
        noising_of(scheduler("flow_prediction"), 5.0)


def starter(folder: Path) -> Path:
    """A pipeline as the text-to-image training makes them, tiny."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        parts = tiny_pipelines.PIPELINES[SD]()
        parts["vae"] = diffusers.AutoencoderTiny(
            encoder_block_out_channels=(8,) * 4,
            decoder_block_out_channels=(8,) * 4,
            num_encoder_blocks=(1,) * 4,
            num_decoder_blocks=(1,) * 4,
            scaling_factor=1.7,
        )
        parts["unet"] = diffusers.UNet2DConditionModel.from_config(
            {
                **parts["unet"].config,
                "addition_embed_type": "text",
                "addition_embed_type_num_heads": 4,
                "resnet_time_scale_shift": "scale_shift",
            }
        )
        parts["scheduler"] = scheduler("flow_prediction")
        diffusers.StableDiffusionPipeline(**parts).save_pretrained(folder)
    return folder


def test_a_starter(tmp_path: Path) -> None:
    """Flow matching in a Stable Diffusion with a tiny autoencoder is learnt, and velocity too."""
    for number, change in enumerate((None, "v_prediction")):
        folder = starter(tmp_path / str(number))
        if change:
            scheduler(change).save_pretrained(folder / "scheduler")
        begun = ground(folder, SD, steps=6)
        first = DiffusionLora(begun)
        first.resume(0)
        before = first.evaluate(0)["validation_loss"]
        assert trained(begun).evaluate(6)["validation_loss"] < before


def test_masks(files: Path) -> None:
    """What is black in a mask weighs nothing, what is white the more; the result is another."""
    hook = base.load(files, ground(files, SD).request, CPU).hook  # type: ignore[arg-type]
    picture = PictureItem("a.png", png(size=(32, 32)), "a mug", _half(32))
    one = encoded(hook, picture, "a mug", [(32, 32)], device="cpu")
    assert one.mask.shape == (1, 16, 16)
    assert torch.equal(one.mask[0, :, :8], torch.full((16, 8), 2.0))
    assert float(one.mask[0, :, 8:].max()) == 0
    plain = tensors(trained(ground(files, SD, steps=2)))
    masked = tensors(trained(ground(files, SD, data(mask=_half(64)), steps=2)))
    assert not same(plain, masked)


def _half(side: int) -> bytes:
    """A mask that is white on the left."""
    levels = np.zeros((side, side), np.uint8)
    levels[:, : side // 2] = 255
    file = BytesIO()
    Image.fromarray(levels).save(file, "PNG")
    return file.getvalue()


def test_sizes(files: Path) -> None:
    """Pictures keep their proportions in sizes of about one area, and a batch is of one size."""
    sizes = sizes_of((512, 512), 64, several=True)
    assert sizes[0] == (512, 512)
    assert all(abs(math.log(w * h / 512**2)) < 0.15 and w % 64 == h % 64 == 0 for w, h in sizes)
    assert nearest((1000, 2000), sizes) == (384, 704)
    assert sizes_of((640, 512), 64, several=False) == [(640, 512)]
    with pytest.raises(ValueError, match=r"size: .* multiples of 64"):
        sizes_of((500, 512), 64, several=True)
    hook = base.load(files, ground(files, SD).request, CPU).hook  # type: ignore[arg-type]
    shapes = [(64, 64), (64, 128), (128, 64), (60, 130)]
    small = sizes_of((64, 64), 16, several=True)
    learnt = [
        encoded(hook, PictureItem("a", png(size=one), ""), "", small, device="cpu")
        for one in shapes
    ]
    assert learnt[1].crop.target == learnt[3].crop.target == (96, 48)
    assert learnt[3].crop.numbers == [130, 60, 4, 0, 96, 48]
    buckets = bucketed(learnt)
    assert sorted(map(len, buckets)) == [1, 1, 2]
    torch.manual_seed(1)
    for _ in range(9):
        assert len({one.latents.shape for one in drawn(buckets, 3)}) == 1


def test_captions() -> None:
    """The trigger stands in every caption, once."""
    one = PictureItem("a", b"", f"a photo of {TRIGGER}")
    assert caption_of(one, TRIGGER) == one.caption
    assert caption_of(PictureItem("a", b"", "a mug"), TRIGGER) == f"{TRIGGER}, a mug"
    assert caption_of(PictureItem("a", b"", "a mug"), None) == "a mug"


def test_captions_are_left_out(files: Path) -> None:
    """With a dropout of 1 they make no difference; with less they do."""
    other = [replace(one, caption="some cups") for one in data().pictures]
    for dropout, is_same in ((1.0, True), (0.0, False)):
        one, two = (
            tensors(trained(ground(files, SD, given, caption_dropout=dropout, steps=2)))
            for given in (data(), data(pictures=other))
        )
        assert same(one, two) is is_same


def test_samples_and_the_prior(files: Path, tmp_path: Path) -> None:
    """Samples show the LoRA; the prior is learnt beside, by passes of its own."""
    heard = Heard()
    fields: dict[str, Any] = {"sample_prompts": ["a mug"], "sample_every": 2}
    begun = ground(files, SD, **fields, prior={"prompt": "a cup", "pictures": 2, "weight": 0.5})
    training = trained(begun, heard)
    steps = [note for name, note in heard.notes if name == "progress"]
    assert steps[-1].keys() >= {"loss", "prior_loss", "learning_rate", "grad_norm"}
    assert [one.caption for one in heard.samples] == ["a mug"] * 2
    two, four = (np.asarray(one.content) for one in heard.samples)
    assert np.abs(two.astype(int) - four).max() > 0
    (again,) = training.samples(4)
    assert np.array_equal(np.asarray(again.content), four)
    assert not same(tensors(training), tensors(trained(ground(files, SD, **fields))))
    made(training, tmp_path)
    with safe_open(tmp_path / "adapter" / WEIGHTS, "np") as file:
        facts = file.metadata()
    assert (facts["presswork_trigger"], facts["presswork_alpha"]) == (TRIGGER, "2")


def test_the_embedded_model(tmp_path: Path) -> None:
    """It has a ControlNet, which is left aside; jobs use the adapter by the bank."""
    card = BUILT_IN["debug-diffusion"]
    debug.build(tmp_path / "base")
    begun = ground(
        tmp_path / "base", SD, gradient_checkpointing=True, accumulate=2, precision="bfloat16"
    )
    exported = made(trained(begun), tmp_path / "made")
    model = FAMILY.load(tmp_path / "base", card, CPU)
    adapter = Adapter("mugs@1", 1.0, exported.folder, bank=exported.details["bank"])
    plain, changed = pictures(model, item(model), item(model, 1, adapter))
    assert apart(plain, changed) > LEVEL


def test_memory(files: Path) -> None:
    """The estimate has the sizes that there are, and what does not fit is refused with numbers."""
    begun = ground(files, SD)
    training = DiffusionLora(begun)
    need = preflight.estimate(files, begun.request, CPU)  # type: ignore[arg-type]
    unet = training._hook.denoiser  # noqa: SLF001
    lora = sum(one.numel() for one in training._base.lora.parameters())  # noqa: SLF001
    whole = sum(one.numel() for one in unet.parameters()) - lora
    assert need.denoiser == pytest.approx(4 * whole, rel=0.01)
    assert need.lora == 16 * lora
    with pytest.raises(ValueError, match=r"needs about [\d.]+ GiB .* gradient_checkpointing"):
        DiffusionLora(ground(files, SD, batch=4096, size="8192x8192"))


def test_no_gpu(files: Path) -> None:
    """A quantized base is for GPUs, and that is said."""
    with pytest.raises(ValueError, match="quantize: nf4 needs a GPU"):
        DiffusionLora(ground(files, SD, quantize="nf4"))


def test_a_class_that_is_not_trained(tmp_path: Path) -> None:
    """It is named, with those that are."""
    folder = tiny_pipelines.save("PixArtSigmaPipeline", tmp_path)
    with pytest.raises(ValueError, match=r"is a PixArtSigmaPipeline, .* StableDiffusionPipeline"):
        base.load(folder, ground(folder, SD).request, Device("cpu"))  # type: ignore[arg-type]
