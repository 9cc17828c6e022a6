"""Voices of ``hibari-tts``: one ONNX file each, which must be there; nothing is downloaded."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import hibari
import numpy as np
from hibari.voices import VOICES
from numpy.typing import NDArray

from workers.families.speech.engine import UnsayableError, unsayable

_GIVEN = re.compile(r"\[[^\]]+\]\(/[^)]*/\)")
"""``[word](/phonemes/)``, by which a text may say how a word is spoken."""


class HibariEngine:
    """English by onnxruntime, on the CPU."""

    sample_rate_hz = hibari.SAMPLE_RATE

    def __init__(self, files: Path, voices: Sequence[str]) -> None:
        """The voices whose files are in ``files``; ValueError: one is not."""
        self._voices = {}
        for voice in voices:
            if voice not in VOICES or not (files / VOICES[voice]["file"]).is_file():
                raise ValueError(f"{files} has no file of the voice {voice!r}")
            # Given the path, hibari looks for it nowhere else.
            self._voices[voice] = hibari.Hibari(voice, model=str(files / VOICES[voice]["file"]))

    def sentences(self, text: str, voice: str) -> list[str]:
        """Phonemes, sentence by sentence; see `Engine.sentences`."""
        speaker = self._voices[voice]
        foreign = {
            letter
            for letter in unicodedata.normalize("NFKC", _GIVEN.sub("", text))
            if unicodedata.category(letter) in ("Ll", "Lo", "Lt", "Lu")
            and "LATIN" not in unicodedata.name(letter, "")
            and letter != "μ"
        }
        if foreign:
            # hibari would leave out some letters and spell others.
            raise unsayable(foreign, voice)
        # Of letters that it has never met hibari makes nothing: better the letter below the accent.
        known = speaker.g2p.oov.cin
        folded = "".join(
            unicodedata.normalize("NFKD", letter)[0]
            if letter.isalpha() and letter not in known
            else letter
            for letter in unicodedata.normalize("NFC", text)
        )
        phonemes: list[str] = speaker.phonemize(folded)
        if not any(sound.isalpha() for sentence in phonemes for sound in sentence):
            raise UnsayableError("nothing_to_say", "text: it has no word that could be said")
        return phonemes

    def speak(
        self, sentences: list[str], voice: str, rate: float, seed: int
    ) -> Iterator[NDArray[np.float32]]:
        """See `Engine.speak`. One generator for all sentences, as hibari itself does."""
        speaker = self._voices[voice]
        noise = np.random.default_rng(seed)
        for phonemes in sentences:
            yield speaker.from_ids(speaker.ids(phonemes), rate, noise)
