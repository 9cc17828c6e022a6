"""Where a model's files come from: built here, a directory, or a pinned revision of the hub."""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from huggingface_hub import snapshot_download

from storage.models import ModelCard
from workers.families.diffusion import debug

BUILDERS: Mapping[str, Callable[[Path], None]] = MappingProxyType(
    {"debug-diffusion": debug.build},
)

WANTED = ("*.safetensors", "*.json", "*.txt", "*.model")
"""What is fetched from the hub: weights that are data, configurations, tokenizer files."""


def files_of(card: ModelCard, cache: Path) -> Path:
    """The directory with the model's files, made or fetched on first use.

    Raises:
        OSError: the source is not there.
        ValueError: it is not pinned.
    """
    scheme, _, place = card.source.partition(":")
    match scheme:
        case "builtin":
            return _built(card, place, cache)
        case "dir":
            folder = Path(place)
            if not folder.is_dir():
                raise FileNotFoundError(f"model {card.name!r}: no directory {folder} here")
            return folder
        case "hub":
            if not card.revision:
                raise ValueError(f"model {card.name!r}: a hub source needs a revision")
            return Path(
                snapshot_download(place, revision=card.revision, allow_patterns=list(WANTED))
            )
        case _:
            raise ValueError(f"model {card.name!r}: unknown source {card.source!r}")


def _built(card: ModelCard, name: str, cache: Path) -> Path:
    folder = cache / "models" / f"{name}-{card.revision}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Built aside and renamed, so that no process ever loads a half-written directory.
    building = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
    try:
        BUILDERS[name](building)
        try:
            building.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another worker was faster
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder
