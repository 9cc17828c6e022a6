"""Files of sound, and the pipelines that make music and noises."""

import string
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID

import av
import numpy as np
import pytest
import torch
from diffusers import (
    AudioLDM2Pipeline,
    AudioLDM2ProjectionModel,
    AudioLDM2UNet2DConditionModel,
    AutoencoderKL,
    DDIMScheduler,
)
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    GPT2Config,
    GPT2LMHeadModel,
    RobertaTokenizer,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from jobs.kinds.speech import SoundFormat
from storage.models import BUILT_IN
from tests.contracts import media
from tests.contracts.test_family import Loaded, Steps, difference
from workers.families.sound import Sound
from workers.family import StopRequestedError
from workers.sound import encode_sound

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is:FutureWarning"),
]

JOB = UUID(int=7)


@pytest.fixture(scope="module")
def stable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    """debug-sound, which is a StableAudioPipeline."""
    loaded = Loaded(Sound(), BUILT_IN["debug-sound"], tmp_path_factory.getbasetemp() / "cache")
    yield loaded
    loaded.family.unload(loaded.model)


@pytest.mark.parametrize("rate_hz", [8000, 16000, 22050, 24000, 44100, 48000])
@pytest.mark.parametrize("form", ["wav", "mp3"])
@pytest.mark.parametrize("channels", [1, 2])
def test_files_of_sound(rate_hz: int, form: SoundFormat, channels: int) -> None:
    """A tone keeps its rate, channels, length and pitch, and its file's bytes are repeatable."""
    time_s = np.arange(int(0.7 * rate_hz)) / rate_hz
    tone = np.stack([0.5 * np.sin(2 * np.pi * 440 * time_s)] * channels)
    data = encode_sound(tone, rate_hz, form, job_id=JOB, seed=3)
    assert encode_sound(tone, rate_hz, form, job_id=JOB, seed=3) == data
    with av.open(BytesIO(data), "r") as container:
        stream = container.streams.audio[0]
        assert (stream.rate, stream.channels) == (rate_hz, channels)
        assert container.metadata == {"comment": f"presswork:job {JOB} presswork:seed 3"}
        resampler = av.AudioResampler(format="fltp", layout=stream.layout.name)
        frames = [f for part in container.decode(audio=0) for f in resampler.resample(part)]
    samples = np.concatenate([frame.to_ndarray() for frame in frames], axis=1)
    assert samples.shape == tone.shape
    for channel in samples:
        peak = np.argmax(np.abs(np.fft.rfft(channel)))
        assert peak * rate_hz / len(channel) == pytest.approx(440, abs=2)
        assert np.abs(channel).max() == pytest.approx(0.5, abs=0.05)


def test_what_is_too_loud_is_cut_off() -> None:
    """Samples beyond full scale do not wrap around to the other sign."""
    data = encode_sound(np.array([2.0, -2.0, 1.0, -1.0, 0.0]), 8000, "wav", job_id=JOB, seed=3)
    assert np.frombuffer(data[-10:], "<i2").tolist() == [32767, -32767, 32767, -32767, 0]


def test_negative_prompts_leave_mates_alone(stable: Loaded) -> None:
    """Items with and without one in a batch are as they are alone, and steps count for both."""
    plain, other = stable.items(2)
    negative = stable.item(1, **stable.words(" 1"), negative_prompt="drums")
    context = Steps()
    together = stable.outputs([plain, negative], context)
    assert context.seen == [(n, 8) for n in range(1, 9)]
    for item, outputs in zip((plain, negative), together, strict=True):
        (alone,) = stable.outputs([item])
        assert difference(alone, outputs) <= round(stable.family.tolerance, 6)
    assert media.fingerprint(together[1]) != media.fingerprint(stable.outputs([other])[0])


def test_as_long_as_asked_for(stable: Loaded) -> None:
    """The sound is of the requested length, in MP3 as well."""
    for form in ("wav", "mp3"):
        ((output,),) = stable.outputs([stable.item(1, duration_s=2.5, format=form)])
        with av.open(BytesIO(output.data), "r") as container:
            assert container.duration is not None
            assert container.duration / 1e6 == pytest.approx(2.5, abs=0.01)
        assert output.facts["duration_s"] == 2.5
        assert output.facts["channels"] == 2


def test_audioldm2(tmp_path: Path) -> None:
    """AudioLDM 2, which names the length otherwise and sings through a vocoder, works as well."""
    build_audioldm2(tmp_path / "audioldm2")
    card = replace(BUILT_IN["debug-sound"], name="small", source=f"dir:{tmp_path / 'audioldm2'}")
    loaded = Loaded(Sound(), card, tmp_path)
    item = loaded.item(1, duration_s=0.25, negative_prompt="drums", steps=3)
    context = Steps()
    ((output,),) = loaded.outputs([item], context)
    assert context.seen == [(1, 3), (2, 3), (3, 3)]
    facts = {"sample_rate_hz": 4000, "duration_s": 0.25, "channels": 1}
    assert {name: output.facts[name] for name in facts} == facts
    ((again,),) = loaded.outputs([item])
    assert again.data == output.data
    ((other,),) = loaded.outputs([loaded.item(2, duration_s=0.25, steps=3)])
    assert media.fingerprint([other]) != media.fingerprint([output])
    with pytest.raises(StopRequestedError):
        loaded.outputs([item], Steps(last=2))


def test_other_pipelines_are_refused(tmp_path: Path) -> None:
    """A pipeline for pictures makes no sound, and says so when it is loaded."""
    card = replace(BUILT_IN["debug-diffusion"], kind="sound")
    with pytest.raises(
        ValueError, match="StableDiffusionControlNetPipeline is not a text-to-audio pipeline"
    ):
        Loaded(Sound(), card, tmp_path)


def build_audioldm2(folder: Path) -> None:
    """An AudioLDM2Pipeline with tiny seeded weights, in diffusers' layout."""
    characters = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", *string.ascii_letters]
    tokenizer = RobertaTokenizer(
        vocab={token: n for n, token in enumerate(characters)}, merges=[], model_max_length=32
    )
    pieces = ["<pad>", "</s>", "<unk>", "▁", *string.ascii_letters]
    tokenizer_2 = T5Tokenizer(
        vocab=[(piece, -1.0) for piece in pieces], extra_ids=0, model_max_length=32
    )
    text: dict[str, Any] = {
        "vocab_size": 80,
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_attention_heads": 1,
        "num_hidden_layers": 1,
        "projection_dim": 8,
    }
    audio: dict[str, Any] = {
        "spec_size": 8,
        "window_size": 4,
        "num_mel_bins": 8,
        "depths": [1, 1],
        "num_attention_heads": [1, 1],
        "num_hidden_layers": 2,
        "hidden_size": 192,
        "projection_dim": 8,
        "patch_size": 2,
        "patch_stride": 2,
        "patch_embed_input_channels": 4,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        language_model = GPT2LMHeadModel(
            GPT2Config(vocab_size=80, n_embd=16, n_head=1, n_layer=1, n_positions=99)
        )
        language_model.config.max_new_tokens = 8
        pipeline = AudioLDM2Pipeline(
            vae=AutoencoderKL(
                in_channels=1,
                out_channels=1,
                block_out_channels=(8, 16),
                norm_num_groups=8,
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
                latent_channels=4,
            ),
            text_encoder=ClapModel(
                ClapConfig(text_config=text, audio_config=audio, projection_dim=16)
            ),
            text_encoder_2=T5EncoderModel(
                T5Config(vocab_size=80, d_model=32, d_kv=8, d_ff=37, num_layers=1, num_heads=2)
            ),
            projection_model=AudioLDM2ProjectionModel(
                text_encoder_dim=16, text_encoder_1_dim=32, langauge_model_dim=16
            ),
            language_model=language_model,
            tokenizer=tokenizer,
            tokenizer_2=tokenizer_2,
            feature_extractor=ClapFeatureExtractor(hop_length=7900),
            unet=AudioLDM2UNet2DConditionModel(
                sample_size=32,
                block_out_channels=(8, 16),
                layers_per_block=1,
                norm_num_groups=8,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                cross_attention_dim=([None, 16, 32],) * 2,
            ),
            scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False),
            vocoder=SpeechT5HifiGan(
                SpeechT5HifiGanConfig(
                    model_in_dim=8,
                    sampling_rate=4000,
                    upsample_initial_channel=16,
                    upsample_rates=[2, 2],
                    upsample_kernel_sizes=[4, 4],
                    resblock_kernel_sizes=[3],
                    resblock_dilation_sizes=[[1, 3]],
                    normalize_before=False,
                    initializer_range=0.3,  # louder than the default, which is silence
                )
            ),
        )
    pipeline.save_pretrained(folder, safe_serialization=True)
