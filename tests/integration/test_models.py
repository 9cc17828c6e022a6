"""Where models come from, and what is refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
from sqlalchemy import Engine

from storage import models
from storage.models import BUILT_IN, DuplicateModelError, ModelCard
from workers.families.diffusion.load import UnsafeModelError, load
from workers.family import Device
from workers.files import files_of

DEBUG = BUILT_IN["debug-diffusion"]
CPU = Device("cpu")
REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def pipeline(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the debug model's directory, to be tampered with."""
    built = files_of(DEBUG, tmp_path_factory.getbasetemp() / "cache")
    return Path(shutil.copytree(built, tmp_path / "pipeline"))


def card(source: str, revision: str = "") -> ModelCard:
    """A model that comes from ``source``."""
    return replace(DEBUG, name="mine", source=source, revision=revision)


def test_directory(pipeline: Path) -> None:
    """Any directory in diffusers' layout is a source."""
    mine = card(f"dir:{pipeline}")
    loaded = load(files_of(mine, Path("unused")), mine, CPU)
    assert type(loaded.pipeline).__name__ == "StableDiffusionPipeline"


def test_hub_layout(pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pinned revision that lies in the hub's cache is found there, without the network."""
    hub = tmp_path / "hub"
    snapshot = hub / "models--acme--mugs" / "snapshots" / REVISION
    shutil.copytree(pipeline, snapshot)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    mine = card("hub:acme/mugs", REVISION)
    files = files_of(mine, tmp_path)
    assert files.samefile(snapshot)
    load(files, mine, CPU)


def test_hub_source_must_be_pinned(tmp_path: Path) -> None:
    """Without a revision, tomorrow's model could be another one."""
    with pytest.raises(ValueError, match="needs a revision"):
        files_of(card("hub:acme/mugs"), tmp_path)


def test_missing_directory(tmp_path: Path) -> None:
    """A worker that lacks the directory says which."""
    with pytest.raises(FileNotFoundError, match=r"mine.*no directory .*nowhere"):
        files_of(card(f"dir:{tmp_path / 'nowhere'}"), tmp_path)


def test_built_once(tmp_path: Path) -> None:
    """A built-in model is made on first use, whole or not at all, the same every time."""
    first = files_of(DEBUG, tmp_path / "one")
    weights = sorted(path.relative_to(first) for path in first.rglob("*.safetensors"))
    assert len(weights) == 3
    before = {path: (first / path).stat().st_mtime_ns for path in weights}
    assert files_of(DEBUG, tmp_path / "one") == first
    assert {path: (first / path).stat().st_mtime_ns for path in weights} == before
    second = files_of(DEBUG, tmp_path / "two")
    assert all((first / path).read_bytes() == (second / path).read_bytes() for path in weights)
    assert [path.name for path in first.parent.iterdir()] == [first.name]


def python_file(folder: Path) -> None:
    """Code beside the weights."""
    (folder / "unet" / "pipeline.py").write_text("raise SystemExit")


def auto_map(folder: Path) -> None:
    """A configuration that names code to run."""
    path = folder / "text_encoder" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil--repo.Model"}}))


def foreign_component(folder: Path) -> None:
    """A component from a library of the attacker's choice."""
    edit_index(folder, unet=["os", "system"])


def foreign_pipeline(folder: Path) -> None:
    """A pipeline class that diffusers does not have."""
    edit_index(folder, _class_name="MyPipeline")


def edit_index(folder: Path, **changes: object) -> None:
    """Change model_index.json."""
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("tamper", [python_file, auto_map, foreign_component, foreign_pipeline])
def test_foreign_code_is_refused(pipeline: Path, tamper: Callable[[Path], None]) -> None:
    """Whatever would have loading run code that is not ours is refused before it is loaded."""
    tamper(pipeline)
    with pytest.raises(UnsafeModelError):
        load(pipeline, card(f"dir:{pipeline}"), CPU)


def test_pickled_weights_are_refused(pipeline: Path) -> None:
    """Weights come as safetensors or not at all."""
    for weights in (pipeline / "unet").glob("*.safetensors"):
        weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(OSError, match="safetensors"):
        load(pipeline, card(f"dir:{pipeline}"), CPU)


def test_not_a_pipeline(tmp_path: Path) -> None:
    """A directory without model_index.json is named."""
    with pytest.raises(ValueError, match="not a diffusers directory"):
        load(tmp_path, card(f"dir:{tmp_path}"), CPU)


def test_registered_models(engine: Engine) -> None:
    """A model that was added is found again as it was; names are not given twice."""
    mine = card("hub:acme/mugs", REVISION)
    with engine.begin() as connection:
        models.add(connection, mine)
        assert models.find(connection, "mine") == mine
        assert models.find(connection, "yours") is None
        assert models.list_models(connection) == [DEBUG, mine]
        for taken in (mine, DEBUG):
            with pytest.raises(DuplicateModelError):
                models.add(connection, taken)
