"""Speech by hibari and by VITS: what is said, what is refused, and what the files hold."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hibari.voices import VOICES
from safetensors.numpy import load_file

from jobs.kinds.speech import SoundFormat
from jobs.registry.inspection import UnsafeModelError
from storage.models import BUILT_IN, ModelCard
from tests.contracts import media
from tests.contracts.test_family import Loaded, Steps
from workers.families.speech import Speech
from workers.family import Device, JobError, Output, StopRequestedError
from workers.files import files_of

DEBUG = BUILT_IN["debug-speech"]
HIBARI = BUILT_IN["hibari"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where models are built, shared with the other contracts."""
    return tmp_path_factory.getbasetemp() / "cache"


@pytest.fixture(scope="module")
def hibari(cache: Path) -> Iterator[Loaded]:
    """The voice that comes with hibari-tts."""
    loaded = Loaded(Speech(), HIBARI, cache)
    yield loaded
    loaded.family.unload(loaded.model)


@pytest.fixture(scope="module")
def vits(cache: Path) -> Iterator[Loaded]:
    """debug-speech, which is a VitsModel with two voices."""
    loaded = Loaded(Speech(), DEBUG, cache)
    yield loaded
    loaded.family.unload(loaded.model)


def spoken(loaded: Loaded, context: Steps | None = None, **changes: Any) -> Output:
    """The kind's example, or what is changed of it, as a file."""
    ((output,),) = loaded.outputs([loaded.item(7, **changes)], context)
    return output


def error(loaded: Loaded, text: str) -> JobError:
    """Why the text cannot be spoken."""
    items = [loaded.item(7, text=text)]
    ((_, result),) = loaded.family.generate(loaded.model, items, Steps())
    assert isinstance(result, JobError), result
    assert not result.retry
    return result


def seconds(output: Output) -> float:
    """How long the file really is."""
    with av.open(BytesIO(output.data), "r") as container:
        assert container.duration is not None
        return container.duration / 1e6


def copy(loaded: Loaded, cache: Path, folder: Path, name: str, **changes: Any) -> ModelCard:
    """The card of a copy of the model, with one of its configurations changed."""
    shutil.copytree(files_of(loaded.card, cache), folder)
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return replace(loaded.card, source=f"dir:{folder}")


def test_hibari_speaks(hibari: Loaded) -> None:
    """Half a second to ten of audible sound, of which the facts tell the truth."""
    output = spoken(hibari)
    facts = {"sample_rate_hz": 24_000, "channels": 1, "voice": "heart", "rate": 1.0}
    assert {name: output.facts[name] for name in facts} == facts
    assert 1.5 < seconds(output) < 5
    (samples,) = media._samples(output)  # noqa: SLF001 (the suite's own reader)
    assert 0.02 < samples.std() < 0.5


def test_hibari_repeats_itself(hibari: Loaded) -> None:
    """The same seed gives the same samples, another one others; neighbours change nothing."""
    first, other, again = (media.fingerprint([spoken_as(hibari, seed)]) for seed in (7, 8, 7))
    assert first == again != other


def spoken_as(loaded: Loaded, seed: int) -> Output:
    """The example with a seed."""
    ((output,),) = loaded.outputs([loaded.item(seed)])
    return output


@pytest.mark.parametrize("form", ["wav", "mp3"])
def test_hibari_files(hibari: Loaded, form: SoundFormat) -> None:
    """Another program reads the rate and the length that the facts tell."""
    output = spoken(hibari, format=form)
    assert media.medium(output) == "sound"
    assert media.facts(output) == {"sample_rate_hz": output.facts["sample_rate_hz"]}
    assert seconds(output) == pytest.approx(output.facts["duration_s"], abs=0.1)


def test_hibari_rate(hibari: Loaded) -> None:
    """Twice as fast is about half as long, half as fast about twice."""
    normal = seconds(spoken(hibari))
    assert seconds(spoken(hibari, rate=2)) == pytest.approx(normal / 2, rel=0.2)
    assert seconds(spoken(hibari, rate=0.5)) == pytest.approx(normal * 2, rel=0.2)


@pytest.mark.parametrize("model", ["hibari", "vits"])
def test_steps_are_sentences(model: str, request: pytest.FixtureRequest) -> None:
    """A long text is told, and can be stopped, from sentence to sentence."""
    loaded = request.getfixturevalue(model)
    text = "Red apples. Green apples! Golden ones?"
    context = Steps()
    whole = spoken(loaded, context, text=text)
    assert context.seen == [(1, 3), (2, 3), (3, 3)]
    assert seconds(whole) > seconds(spoken(loaded, text="Red apples."))
    context = Steps(last=2)
    with pytest.raises(StopRequestedError):
        spoken(loaded, context, text=text)
    assert context.seen == [(1, 3), (2, 3)]


@pytest.mark.parametrize("model", ["hibari", "vits"])
@pytest.mark.parametrize("text", ["🍎", "...", "!?", "🍎. 🍏 —", " "])
def test_nothing_to_say(model: str, text: str, request: pytest.FixtureRequest) -> None:
    """A text without words is an error, not an empty file."""
    assert error(request.getfixturevalue(model), text).code == "nothing_to_say"


@pytest.mark.parametrize("model", ["hibari", "vits"])
@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("你好", "CJK letters"),
        ("Fresh 苹果 today", "CJK letters"),
        ("Привет, друзья", "Cyrillic letters"),
        ("नमस्ते", "Devanagari letters"),
        ("Καλημέρα 苹", "CJK letters, Greek letters"),
    ],
)
def test_scripts_that_a_voice_cannot_say(
    model: str, text: str, named: str, request: pytest.FixtureRequest
) -> None:
    """They are named, rather than left out of what is said."""
    result = error(request.getfixturevalue(model), text)
    assert result.code == "unsupported_text"
    assert f"cannot say {named};" in result.message


@pytest.mark.parametrize(
    "text",
    [
        "20% off, only €5!",
        "Café Łódź for Nguyễn",
        "½ price 🍎",
        "Hawaiʻi, 5 µm",  # noqa: RUF001 (its own letter)
        "Say [苹果](/æpᵊl/).",
    ],
)
def test_what_hibari_can_say(hibari: Loaded, text: str) -> None:
    """Numbers, signs and accents are spoken; so is a word whose phonemes are given."""
    assert seconds(spoken(hibari, text=text)) > 0.5


def test_letters_that_hibari_has_never_met(hibari: Loaded) -> None:
    """They are said as the letters below their accents."""
    accented, plain = (spoken(hibari, text=f"Dear {name}") for name in ("Nguyễn", "Nguyen"))
    assert media.fingerprint([accented]) == media.fingerprint([plain])


def test_one_unsayable_text_is_no_matter_to_others(hibari: Loaded) -> None:
    """The mates of a call are spoken all the same."""
    items = [hibari.item(1, text=text) for text in ("One.", "二", "Three.")]
    made = dict(hibari.family.generate(hibari.model, items, Steps()))
    assert [isinstance(made[n], JobError) for n in range(3)] == [False, True, False]


def test_only_pinned_files_are_loaded(cache: Path) -> None:
    """Another version of the package, or another file in it, is refused before it is opened."""
    with pytest.raises(ValueError, match=r"version 0\.2\.1 is installed: pip install"):
        files_of(replace(HIBARI, source="pip:hibari-tts@0.2.0"), cache)
    details = {**HIBARI.details, "sha256": {"hibari/assets/hibari.onnx": "0" * 64}}
    with pytest.raises(ValueError, match=r"hibari\.onnx is not the file of its card"):
        files_of(replace(HIBARI, details=details), cache)


def test_voices_are_never_fetched(cache: Path) -> None:
    """A voice that hibari would download is refused where its file is not there."""
    assert "emma" in VOICES
    card = replace(HIBARI, details={**HIBARI.details, "voices": ["heart", "emma"]})
    with pytest.raises(ValueError, match="has no file of the voice 'emma'"):
        Speech().load(files_of(card, cache), card, Device("cpu"))


def test_vits_voices(vits: Loaded) -> None:
    """The voices of a model sound different."""
    assert media.fingerprint([spoken(vits, voice="stone")]) != media.fingerprint([spoken(vits)])


def test_vits_rate(vits: Loaded) -> None:
    """Faster is shorter; each sound lasts a frame at least, and few sounds of this model more."""
    slow, normal, fast = (seconds(spoken(vits, rate=rate)) for rate in (0.5, 1, 2))
    assert slow > 1.3 * normal > 1.3 * 1.3 * fast


def test_vits_leaves_the_generator_alone(vits: Loaded) -> None:
    """Seeds are the item's, and what others draw from torch's generator is not changed."""
    state = torch.get_rng_state()
    spoken(vits)
    assert torch.equal(torch.get_rng_state(), state)


def test_vits_says_every_letter_or_none(vits: Loaded) -> None:
    """Signs without a sound are left out, but letters and digits are not."""
    assert media.fingerprint([spoken(vits, text="Apples (red)")]) == media.fingerprint(
        [spoken(vits, text="apples red")]
    )
    assert media.fingerprint([spoken(vits, text="don’t")]) == media.fingerprint(  # noqa: RUF001
        [spoken(vits, text="Don't!")]
    )
    assert error(vits, "١٢ apples").message.startswith("text: voice 'heart' cannot say digits;")
    assert error(vits, "naïve").code == "unsupported_text"


def test_vits_with_fewer_speakers(vits: Loaded, cache: Path) -> None:
    """Each voice of the card must be a speaker of the model."""
    card = replace(DEBUG, details={"voices": ["a", "b", "c"]})
    with pytest.raises(ValueError, match="3 voices, but the model has 2"):
        Speech().load(files_of(DEBUG, cache), card, Device("cpu"))


@pytest.mark.parametrize(
    ("setting", "program"), [("phonemize", "phonemizer"), ("is_uroman", "uroman")]
)
def test_vits_that_needs_other_programs(
    vits: Loaded, cache: Path, tmp_path: Path, setting: str, program: str
) -> None:
    """A tokenizer that would call for other programs is refused when the model is loaded."""
    card = copy(vits, cache, tmp_path / "model", "tokenizer_config.json", **{setting: True})
    with pytest.raises(ValueError, match=f"needs {program}.*, which is not supported"):
        Speech().load(tmp_path / "model", card, Device("cpu"))


def test_a_card_that_is_wrong(tmp_path: Path) -> None:
    """The model is at fault, not the worker that loads it."""
    card = replace(BUILT_IN["debug-speech"], details={"voices": []})
    with pytest.raises(ValueError, match=r"details\.voices"):
        Speech().load(tmp_path, card, Device("cpu"))


def test_other_models_are_refused(vits: Loaded, cache: Path, tmp_path: Path) -> None:
    """Only VITS and hibari speak."""
    card = copy(vits, cache, tmp_path / "model", "config.json", model_type="bark")
    with pytest.raises(ValueError, match="speech by 'bark' is not supported, only by 'vits'"):
        Speech().load(tmp_path / "model", card, Device("cpu"))


def test_no_pickles(vits: Loaded, cache: Path, tmp_path: Path) -> None:
    """Weights are read from safetensors alone: where a pickle lies as well, nothing is."""
    card = copy(vits, cache, tmp_path / "model", "config.json")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    torch.save(
        {name: torch.from_numpy(np.array(value)) for name, value in weights.items()},
        tmp_path / "model" / "pytorch_model.bin",
    )
    with pytest.raises(UnsafeModelError, match=r"pytorch_model\.bin: is refused"):
        Speech().load(tmp_path / "model", card, Device("cpu"))
