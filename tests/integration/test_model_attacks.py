"""Known attacks by which a model ran code when it was loaded, each with a harmless payload.

Each is refused when the model is added, and again by a worker to which such a model was given in
another way: registered behind the command's back, or put in the place of a good copy.
"""

import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from jobs.problems import BadInputError
from jobs.registry import adding, mirror
from jobs.registry.inspection import UnsafeModelError
from jobs.registry.mirror import ModelFilesError
from jobs.registry.specs import ModelSpec
from jobs.services import Services
from storage import models
from storage.models import BUILT_IN, Manifest, ModelCard, manifest_digest
from storage.objects import ObjectStore
from tests.integration.doors import rows
from tests.model_trees import pipeline, write
from workers.family import Device
from workers.files import files_of
from workers.pipelines import check_files
from workers.resident import Residency


@dataclass
class Touch:
    """A pickle that, where it is loaded, makes a file."""

    marker: Path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.marker,)


def code(marker: Path) -> str:
    """Python code that makes a file where it is imported."""
    return f"import pathlib; pathlib.Path({str(marker)!r}).touch()\n"


def cve_2025_32434(folder: Path, marker: Path) -> str:
    """CVE-2025-32434: `torch.load` ran a crafted pickle even with `weights_only=True`."""
    write(folder / "unet" / "diffusion_pytorch_model.bin", pickle.dumps(Touch(marker)))
    return "unet/diffusion_pytorch_model.bin: is refused"


def cve_2025_32434_renamed(folder: Path, marker: Path) -> str:
    """The same, under the name of a file that is data."""
    write(folder / "unet" / "model.safetensors", pickle.dumps(Touch(marker)))
    return "unet/model.safetensors: is not safetensors but a pickle, which is code"


def cve_2026_24747(folder: Path, marker: Path) -> str:
    """CVE-2026-24747: the same unpickler wrote out of bounds where SETITEM met no dictionary.

    Here it meets a list, in a checkpoint as `torch.save` packs them.
    """
    checkpoint = folder / "unet" / "checkpoint.pth"
    checkpoint.parent.mkdir(parents=True)
    with zipfile.ZipFile(checkpoint, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02]K\x00K\x01s.")
        archive.writestr("archive/data/0", b"\0")
        archive.writestr("archive/marker", str(marker))
    return "unet/checkpoint.pth: is refused"


def cve_2026_44513(folder: Path, marker: Path) -> str:
    """CVE-2026-44513: diffusers ran the code of a local snapshot's custom component.

    Its check of `trust_remote_code` was in the download, which a local directory has no need of.
    """
    write(folder / "unet" / "my_unet.py", code(marker))
    edit(folder / "model_index.json", unet=["my_unet", "MyUNet"])
    return "unet/my_unet.py: is refused"


def cve_2026_44513_elsewhere(folder: Path, marker: Path) -> str:
    """The same by a custom pipeline, whose code would come from another repository."""
    edit(folder / "model_index.json", custom_pipeline="evil/repo", n=str(marker))
    return "model_index.json: has 'custom_pipeline', which names Python code to be run"


def cve_2026_45804(folder: Path, marker: Path) -> str:
    """CVE-2026-45804: between diffusers' check and its download the repository became another.

    What it became: an index that names a file as its class, and that file.
    """
    write(folder / "pipeline.py", code(marker))
    edit(folder / "model_index.json", _class_name=["pipeline", "MyPipeline"])
    return "model_index.json: has a list as '_class_name', which names Python code to be run"


def cve_2026_4372(folder: Path, marker: Path) -> str:
    """CVE-2026-4372: a configuration named a repository as its attention, whose code was run."""
    config = {
        "model_type": "clip",
        "_attn_implementation_internal": "evil/kernel",
        "n": str(marker),
    }
    write(folder / "text_encoder" / "config.json", config)
    return "text_encoder/config.json: has '_attn_implementation_internal'"


def cve_2026_5241(folder: Path, marker: Path) -> str:
    """CVE-2026-5241: LightGlue's configuration decided itself whether its code was trusted.

    It was handed on to the configuration of its detector, which is where the code was.
    """
    config = {
        "model_type": "lightglue",
        "trust_remote_code": True,
        "keypoint_detector_config": {"_name_or_path": "evil/detector", "model_type": "superpoint"},
    }
    write(folder / "matcher" / "config.json", config)
    write(folder / "matcher" / "configuration_detector.py", code(marker))
    return "matcher/config.json: has 'trust_remote_code'"


def edit(file: Path, **changes: object) -> None:
    """Change a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


ATTACKS = [
    *(cve_2025_32434, cve_2025_32434_renamed, cve_2026_24747, cve_2026_44513),
    *(cve_2026_44513_elsewhere, cve_2026_45804, cve_2026_4372, cve_2026_5241),
]
Attack = Callable[[Path, Path], str]


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file that exists once a payload has run."""
    return tmp_path / "it ran"


def test_the_payloads_would_run(tmp_path: Path, marker: Path) -> None:
    """The pickle and the code that are refused below do what they are said to do."""
    pickle.loads(pickle.dumps(Touch(marker)))  # noqa: S301 (that is the point)
    assert marker.exists()
    marker.unlink()
    exec(code(marker))  # noqa: S102
    assert marker.exists()


@pytest.mark.parametrize("attack", ATTACKS)
def test_refused_when_it_is_added(
    services: Services, engine: Engine, tmp_path: Path, marker: Path, attack: Attack
) -> None:
    """`model add` names the file, and registers nothing."""
    folder = pipeline(tmp_path / "model")
    said = attack(folder, marker)
    spec = ModelSpec(name="evil", source=f"dir:{folder}", licence="MIT")
    with pytest.raises(BadInputError) as caught:
        adding.add(services, spec)
    assert said in str(caught.value)
    assert rows(engine)["models"] == 0
    assert not marker.exists()


@pytest.mark.parametrize("attack", ATTACKS)
def test_refused_by_a_worker(
    services: Services, engine: Engine, tmp_path: Path, marker: Path, attack: Attack
) -> None:
    """A worker loads no such model, although its files match what somebody has registered."""
    folder = pipeline(tmp_path / "model")
    said = attack(folder, marker)
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    manifest = mirror.manifest_of(files)
    mirror.store(services.objects, files, manifest)
    with engine.begin() as connection:
        models.add(connection, card_of(manifest))
    residency = Residency(engine, services.objects, tmp_path / "cache", Device("cpu"))
    with pytest.raises(UnsafeModelError) as caught:
        residency.get("evil")
    assert said in str(caught.value)
    with pytest.raises(UnsafeModelError):
        check_files(folder)
    assert not marker.exists()


def card_of(manifest: Manifest) -> ModelCard:
    """A model that was registered without the command."""
    return replace(
        BUILT_IN["debug-diffusion"],
        name="evil",
        source="dir:/evil",
        manifest=manifest,
        manifest_sha256=manifest_digest(manifest),
    )


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_copy_in_which_it_was_hidden(
    services: Services, engine: Engine, tmp_path: Path, marker: Path, attack: Attack
) -> None:
    """A good copy into which it is put afterwards is replaced before it is loaded."""
    source = pipeline(tmp_path / "model")
    spec = ModelSpec(name="good", source=f"dir:{source}", licence="MIT")
    card = adding.add(services, spec).card
    copy = files_of(card, tmp_path / "cache", services.objects)
    attack(copy, marker)
    assert files_of(card, tmp_path / "cache", services.objects) == copy
    left = {p.relative_to(copy).as_posix() for p in copy.rglob("*") if p.is_file()}
    assert left == (card.manifest or {}).keys()
    assert (copy / "model_index.json").read_bytes() == (source / "model_index.json").read_bytes()
    assert not marker.exists()


def test_a_source_that_changes_after_its_check(
    services: Services,
    engine: Engine,
    tmp_path: Path,
    marker: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The race of CVE-2026-45804, at our own door: what was not inspected is never loaded."""
    folder = pipeline(tmp_path / "model", number=20)
    put = ObjectStore.put_file

    def put_others(self: ObjectStore, key: str, file: Any) -> None:
        if not (folder / "pipeline.py").exists():
            cve_2026_45804(folder, marker)
            write(folder / "vae" / "diffusion_pytorch_model.safetensors", b"changed")
        put(self, key, file)

    monkeypatch.setattr(ObjectStore, "put_file", put_others)
    spec = ModelSpec(name="turncoat", source=f"dir:{folder}", licence="MIT")
    card = adding.add(services, spec).card
    with pytest.raises(ModelFilesError, match="in the bucket has other bytes than its name says"):
        files_of(card, tmp_path / "cache", services.objects)
    assert not marker.exists()
