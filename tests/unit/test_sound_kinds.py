"""Speech and sound: what a request may hold, and what a model makes of it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from jobs.kinds import sound, speech
from jobs.kinds.sound import SOUND, SoundRequest
from jobs.kinds.speech import SPEECH, SpeechRequest
from jobs.problems import BadInputError
from storage.models import BUILT_IN, ModelCard

HIBARI = BUILT_IN["hibari"]
DEBUG_SPEECH = BUILT_IN["debug-speech"]
DEBUG_SOUND = BUILT_IN["debug-sound"]


def speak(**fields: Any) -> SpeechRequest:
    """A request for speech."""
    return SpeechRequest(**{"text": "Red apples.", **fields})


def play(**fields: Any) -> SoundRequest:
    """A request for a sound."""
    return SoundRequest(**{"prompt": "a bite into an apple", **fields})


def sound_key(card: ModelCard = DEBUG_SOUND, **fields: Any) -> str:
    """The batch key of a request for a sound."""
    return SOUND.batch_key(sound.resolve(play(**fields), card), card)


def test_the_first_voice_is_the_default() -> None:
    """Other voices are chosen by name; a model without any has one that is called so."""
    assert speech.resolve(speak(), DEBUG_SPEECH).voice == "heart"
    assert speech.resolve(speak(voice="stone"), DEBUG_SPEECH).voice == "stone"
    assert speech.resolve(speak(), replace(DEBUG_SPEECH, details={})).voice == "default"


def test_a_voice_that_the_model_has_not() -> None:
    """It is refused at once, with the voices that there are, even if hibari could download it."""
    with pytest.raises(
        BadInputError, match=r"^voice: model 'debug-speech' has no voice 'emma', but heart, stone$"
    ):
        speech.resolve(speak(voice="emma"), DEBUG_SPEECH)
    with pytest.raises(BadInputError, match=r"^voice: model 'hibari' has no voice 'emma'"):
        speech.resolve(speak(voice="emma"), HIBARI)


@pytest.mark.parametrize(
    "fields",
    [
        {"text": ""},
        {"text": "x" * 4001},
        {"text": "a\0"},
        {"voice": ""},
        {"voice": "a\0"},
        {"rate": 0.49},
        {"rate": 2.01},
        {"rate": float("nan")},
        {"format": "ogg"},
        {"seed": -1},
        {"unknown": 1},
    ],
)
def test_requests_for_speech_that_are_none(fields: Mapping[str, Any]) -> None:
    """Each field has its limits, and there is no other field."""
    with pytest.raises(ValidationError) as caught:
        speak(**fields)
    assert [error["loc"] for error in caught.value.errors()] == [tuple(fields)]


def test_speech_shares_batches() -> None:
    """Texts are spoken one by one, so that only the model parts them."""
    one, two = speak(), speak(text="x", voice="stone", rate=2, format="mp3", seed=1)
    keys = {
        SPEECH.batch_key(speech.resolve(request, DEBUG_SPEECH), DEBUG_SPEECH)
        for request in (one, two)
    }
    assert len(keys) == 1
    other = replace(DEBUG_SPEECH, revision="2")
    assert SPEECH.batch_key(speech.resolve(one, other), other) not in keys


def test_what_a_sound_leaves_out_comes_from_the_card() -> None:
    """Duration, steps and guidance are the model's defaults; zero guidance is not left out."""
    resolved = sound.resolve(play(guidance=0), DEBUG_SOUND)
    assert (resolved.duration_s, resolved.steps, resolved.guidance) == (1.0, 4, 0)
    resolved = sound.resolve(play(duration_s=4, steps=1), DEBUG_SOUND)
    assert (resolved.duration_s, resolved.steps, resolved.guidance) == (4, 1, 3.0)


def test_a_sound_that_is_too_long() -> None:
    """The message names the longest that the model makes."""
    with pytest.raises(
        BadInputError, match=r"^duration_s: 4\.1: model 'debug-sound' makes at most 4 s$"
    ):
        sound.resolve(play(duration_s=4.1), DEBUG_SOUND)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": ""},
        {"prompt": "x" * 4001},
        {"negative_prompt": "a\0"},
        {"duration_s": 0},
        {"duration_s": 601},
        {"duration_s": float("nan")},
        {"steps": 0},
        {"guidance": -1},
        {"format": "flac"},
        {"unknown": 1},
    ],
)
def test_requests_for_sounds_that_are_none(fields: Mapping[str, Any]) -> None:
    """Each field has its limits, and there is no other field."""
    with pytest.raises(ValidationError) as caught:
        play(**fields)
    assert [error["loc"] for error in caught.value.errors()] == [tuple(fields)]


def test_which_sounds_share_a_batch() -> None:
    """Prompts, seeds and formats do not part jobs; what a call has only one of does."""
    assert sound_key(prompt="x", negative_prompt="y", seed=3, format="mp3") == sound_key()
    parting: tuple[dict[str, Any], ...] = ({"duration_s": 2}, {"steps": 5}, {"guidance": 2})
    assert len({sound_key(), *(sound_key(**fields) for fields in parting)}) == 4


@pytest.mark.parametrize(
    ("details", "place"),
    [
        ({"voices": []}, ".voices"),
        ({"voices": [""]}, r".voices\[0\]"),
        ({"language": 1}, ".language"),
    ],
)
def test_cards_of_no_speech_model(details: dict[str, Any], place: str) -> None:
    """What is wrong with a card is said, not met as a crash."""
    with pytest.raises(BadInputError, match=f"^model: the card of .* is wrong: details{place}: "):
        speech.resolve(speak(), replace(DEBUG_SPEECH, details=details))


@pytest.mark.parametrize(
    ("details", "place"),
    [({"max_duration_s": 0}, ".max_duration_s"), ({"default_duration_s": 60}, "")],
)
def test_cards_of_no_sound_model(details: dict[str, Any], place: str) -> None:
    """What is wrong with a card is said, not met as a crash."""
    with pytest.raises(BadInputError, match=f"^model: the card of .* is wrong: details{place}: "):
        sound.resolve(play(), replace(DEBUG_SOUND, details=details))


def test_models_of_other_kinds() -> None:
    """A model that sings does not speak, and the other way around."""
    with pytest.raises(BadInputError, match=r"is for sound jobs, not speech$"):
        speech.resolve(speak(), DEBUG_SOUND)
    with pytest.raises(BadInputError, match=r"is for speech jobs, not sound$"):
        sound.resolve(play(), HIBARI)
