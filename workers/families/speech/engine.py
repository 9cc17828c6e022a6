"""What the engines have in common, and which letters a text is written in."""

import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class UnsayableError(ValueError):
    """The voice cannot say the text. ``code`` is that of the job's error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Engine(Protocol):
    """A loaded model with its voices."""

    sample_rate_hz: int

    def sentences(self, text: str, voice: str) -> list[str]:
        """The text in the pieces in which it is spoken, ready for `speak`.

        Raises:
            UnsayableError: it holds what the voice cannot say.
        """

    def speak(
        self, sentences: list[str], voice: str, rate: float, seed: int
    ) -> Iterator[NDArray[np.floating[Any]]]:
        """The samples [time] of each sentence, between -1 and 1."""


def unsayable(characters: Iterable[str], voice: str) -> UnsayableError:
    """The error for ``characters`` that ``voice`` has no sounds for.

    It names scripts, not the characters: these may be of somebody's name.
    """
    scripts = sorted({script_of(character) for character in characters})
    return UnsayableError(
        "unsupported_text",
        f"text: voice {voice!r} cannot say {', '.join(scripts)}; write it in the voice's language "
        "and letters, or choose another model",
    )


def script_of(character: str) -> str:
    """``Cyrillic letters``, ``digits`` and so on, as far as Unicode's names tell."""
    if unicodedata.category(character).startswith("N"):
        return "digits"
    script = unicodedata.name(character, "unknown").partition(" ")[0]
    return f"{script if script == 'CJK' else script.capitalize()} letters"
