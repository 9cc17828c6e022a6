"""Files that come with Presswork, so that every example works as it stands.

The pictures are drawn; the voice was made by ``hibari-tts`` (Apache-2.0).
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

SAMPLES: Mapping[str, str] = MappingProxyType(
    {
        "apple.png": "image/png",
        "edges.png": "image/png",
        "mask.png": "image/png",
        "mug.png": "image/png",
        "voice.mp3": "audio/mpeg",
    }
)
"""Media types by name. ``edges`` are the apple's, ``mask`` is white where the apple is."""

_FOLDER = Path(__file__).parent / "sample_files"


def read(name: str) -> bytes:
    """The file's bytes; KeyError where there is no such sample."""
    if name not in SAMPLES:
        raise KeyError(name)
    return (_FOLDER / name).read_bytes()
