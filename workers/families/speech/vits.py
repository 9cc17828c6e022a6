"""VITS through transformers, MMS-TTS among them: text in the letters of its own vocabulary."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import VitsModel, VitsTokenizer

from jobs.kinds.values import derived_seed
from workers import pretrained
from workers.families.speech.engine import UnsayableError, unsayable
from workers.weights import whole

_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？।؟])\s*|\n+")  # noqa: RUF001 (they are)


class VitsEngine:
    """VITS on the CPU, of which one core makes about three seconds of speech a second.

    It draws its noise in its own layers, from the generator of its device: elsewhere the same seed
    would say the same text differently.
    """

    def __init__(self, files: Path, voices: Sequence[str]) -> None:
        """The model in ``files``, whose speakers are ``voices``, in their order.

        Raises:
            ValueError: it lacks weights, has fewer speakers, or needs programs that turn text into
                phonemes.
        """
        pretrained.quieten()
        self._tokenizer = VitsTokenizer.from_pretrained(files, local_files_only=True)
        for needs, program in (("phonemize", "phonemizer (espeak)"), ("is_uroman", "uroman")):
            if getattr(self._tokenizer, needs):
                raise ValueError(f"{files}: its tokenizer needs {program}, which is not supported")
        loaded = VitsModel.from_pretrained(
            files,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
        self._model = whole(loaded, files).eval()
        if len(voices) > self._model.config.num_speakers:
            found = self._model.config.num_speakers
            raise ValueError(f"{files}: {len(voices)} voices, but the model has {found}")
        self._speakers = {voice: number for number, voice in enumerate(voices)}
        self.sample_rate_hz: int = self._model.config.sampling_rate

    def sentences(self, text: str, voice: str) -> list[str]:
        """See `Engine.sentences`. Punctuation and emoji without a sign in the model are left out.

        Letters and digits are not: an offer without its number is another offer.
        """
        text = unicodedata.normalize("NFC", text)
        known = self._tokenizer.get_vocab()
        if "’" not in known:  # noqa: RUF001 (an apostrophe, as texts for readers have it)
            text = text.replace("’", "'")  # noqa: RUF001
        prepared = self._tokenizer.normalize_text(text) if self._tokenizer.normalize else text
        prepared = self._tokenizer._preprocess_char(prepared)  # noqa: SLF001 (as it will itself)
        missing = {
            character
            for character in prepared
            if unicodedata.category(character)[0] in "LMN" and character not in known
        }
        # Marks that only choose how an emoji looks say nothing.
        missing -= {"\ufe0e", "\ufe0f", "\u20e3"}
        if missing:
            raise unsayable(missing, voice)
        sentences = [part for part in _SENTENCE_END.split(text) if self._said(part)]
        if not sentences:
            raise UnsayableError("nothing_to_say", "text: it has no word that could be said")
        return sentences

    def speak(
        self, sentences: list[str], voice: str, rate: float, seed: int
    ) -> Iterator[NDArray[np.float32]]:
        """See `Engine.speak`. Each sentence has its own noise, drawn from ``seed``."""
        speaker = self._speakers[voice] if self._model.config.num_speakers > 1 else None
        for number, sentence in enumerate(sentences):
            ids = self._tokenizer(sentence, return_tensors="pt").input_ids
            with torch.random.fork_rng(devices=[]), torch.inference_mode():
                torch.manual_seed(derived_seed(str(seed), str(number)))
                spoken = self._model(
                    ids, speaker_id=speaker, speaking_rate=rate * self._model.speaking_rate
                )
            yield spoken.waveform[0].numpy()

    def _said(self, sentence: str) -> bool:
        return any(unicodedata.category(character)[0] in "LN" for character in sentence)
