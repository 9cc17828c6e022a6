"""From files to an engine: which one, the files decide."""

import json
from dataclasses import dataclass
from pathlib import Path

from jobs.kinds.speech import SpeechDetails
from jobs.kinds.values import read_details
from jobs.registry.inspection import check_tree
from storage.models import ModelCard
from workers import memory
from workers.families.speech.engine import Engine
from workers.families.speech.hibari import HibariEngine
from workers.families.speech.vits import VitsEngine


@dataclass
class Loaded:
    """An engine; None once it is unloaded."""

    engine: Engine | None


def load(files: Path, card: ModelCard) -> Loaded:
    """The engine for ``files``. No file of theirs chooses code: the classes are named here.

    Raises:
        UnsafeModelError: see `jobs.registry.inspection`.
        ValueError: they are neither VITS nor voices of hibari.
    """
    voices = read_details(card, SpeechDetails).voices
    config = files / "config.json"
    if config.is_file():
        model_type = json.loads(config.read_text(encoding="utf-8")).get("model_type")
        if model_type != "vits":
            raise ValueError(f"{files}: speech by {model_type!r} is not supported, only by 'vits'")
        check_tree(files)
        return Loaded(VitsEngine(files, voices))
    return Loaded(HibariEngine(files, voices))


def unload(model: Loaded) -> None:
    """Drop the weights."""
    model.engine = None
    memory.give_back()
