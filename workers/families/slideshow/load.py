"""There is nothing to load but what comes with Pillow and libav: whether it is all there."""

import json
from dataclasses import dataclass
from pathlib import Path

from PIL import features

from storage.models import ModelCard

VERSION = 1
"""Of what the films look like."""


@dataclass(frozen=True)
class Loaded:
    """Ready to make films."""

    card: ModelCard


def load(files: Path, card: ModelCard) -> Loaded:
    """The configuration in ``files``, checked.

    Raises:
        ValueError: it is none of ours, or Pillow cannot draw text.
    """
    config = files / "slideshow.json"
    if not config.is_file() or json.loads(config.read_text("utf-8")) != {"version": VERSION}:
        raise ValueError(f"{files} holds no slideshow.json of version {VERSION}")
    if not features.check("freetype2"):
        raise ValueError("Pillow was built without FreeType, so it cannot draw headlines")
    return Loaded(card)
