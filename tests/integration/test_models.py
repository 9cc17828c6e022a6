"""The files of models on a worker's machine: those that were registered, byte by byte."""

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import Engine, text

from jobs import requests
from jobs.export import export_campaign
from jobs.kinds.values import AdapterUse
from jobs.registry import adding
from jobs.registry.inspection import UnsafeModelError
from jobs.registry.mirror import ModelFilesError
from jobs.registry.specs import ModelSpec
from jobs.services import Services
from storage import models
from storage.models import BUILT_IN, DuplicateModelError, ModelCard, manifest_digest
from storage.objects import ObjectStoreError, model_key
from tests.integration.batches import jobs, submit
from tests.integration.doors import campaign, fanned_out
from tests.model_trees import lora, pipeline, write
from workers import pipelines
from workers.families.diffusion.load import load
from workers.family import Device
from workers.files import files_of
from workers.resident import Residency
from workers.runner import Runner

DEBUG = BUILT_IN["debug-diffusion"]
CPU = Device("cpu")
WEIGHTS = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture
def add(services: Services) -> Callable[..., ModelCard]:
    """Adds a model that lies in a directory."""

    def add(folder: Path, **fields: object) -> ModelCard:
        given = {"name": "mine", "source": f"dir:{folder}", "licence": "MIT", "size": "64x64"}
        return adding.add(services, ModelSpec.model_validate({**given, **fields})).card

    return add


Add = Callable[..., ModelCard]


@pytest.fixture(scope="module")
def debug_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The debug model's directory."""
    return files_of(DEBUG, tmp_path_factory.getbasetemp() / "cache")


def test_built_once(tmp_path: Path) -> None:
    """A built-in model is made on first use, whole or not at all, the same every time."""
    first = files_of(DEBUG, tmp_path / "one")
    weights = sorted(path.relative_to(first) for path in first.rglob("*.safetensors"))
    assert len(weights) == 4
    before = {path: (first / path).stat().st_mtime_ns for path in weights}
    assert files_of(DEBUG, tmp_path / "one") == first
    assert {path: (first / path).stat().st_mtime_ns for path in weights} == before
    second = files_of(DEBUG, tmp_path / "two")
    assert all((first / path).read_bytes() == (second / path).read_bytes() for path in weights)
    assert [path.name for path in first.parents[1].glob("[!.]*")] == [first.parent.name]


@pytest.mark.parametrize("name", [WEIGHTS, "evil.py"])
def test_built_anew(tmp_path: Path, name: str) -> None:
    """A built-in model's files that have changed, or were joined by others, are not loaded."""
    files = files_of(DEBUG, tmp_path)
    before = (files / WEIGHTS).read_bytes()
    (files / name).write_bytes(b"other")
    assert files_of(DEBUG, tmp_path) == files
    assert (files / WEIGHTS).read_bytes() == before
    assert not (files / "evil.py").exists()


def test_a_copy_is_fetched_once(services: Services, add: Add, tmp_path: Path) -> None:
    """The files come from the bucket, not from where they once were, and stay."""
    shutil.copytree(pipeline(tmp_path / "source"), tmp_path / "kept")
    card = add(tmp_path / "source")
    shutil.rmtree(tmp_path / "source")
    write(tmp_path / "models" / f".{card.manifest_sha256}-killed" / "new" / "x.txt", "x")
    files = files_of(card, tmp_path, services.objects)
    for path in card.manifest or ():
        assert (files / path).read_bytes() == (tmp_path / "kept" / path).read_bytes()
    nowhere = replace(services.objects, endpoint="http://127.0.0.1:9", tries=1)
    assert files_of(card, tmp_path, nowhere) == files
    assert copies(files.parent) == [card.manifest_sha256]


def copies(folder: Path) -> list[str]:
    """What lies in a worker's cache, but for the locks."""
    return [path.name for path in folder.iterdir() if path.suffix != ".lock"]


def changed(folder: Path) -> None:
    """One bit of the weights."""
    file = folder / WEIGHTS
    body = bytearray(file.read_bytes())
    body[-1] ^= 1
    file.write_bytes(body)


def added(folder: Path) -> None:
    """A file that nobody has registered."""
    write(folder / "vae" / "notes.txt", "x")


def missing(folder: Path) -> None:
    """Without one of the files."""
    (folder / "model_index.json").unlink()


def linked(folder: Path) -> None:
    """The same bytes, but somewhere else, where they may become others."""
    elsewhere = (folder / WEIGHTS).rename(folder.parent / "elsewhere")
    (folder / WEIGHTS).symlink_to(elsewhere)


@pytest.mark.parametrize("tamper", [changed, added, missing, linked])
def test_a_copy_that_does_not_match(
    services: Services, add: Add, tmp_path: Path, tamper: Callable[[Path], None]
) -> None:
    """Whatever has become of a copy, it is seen before the model is loaded, and mended."""
    card = add(pipeline(tmp_path / "source", number=10))
    files = files_of(card, tmp_path, services.objects)
    tamper(files)
    assert files_of(card, tmp_path, services.objects) == files
    for path in card.manifest or ():
        assert not (files / path).is_symlink()
        assert (files / path).read_bytes() == (tmp_path / "source" / path).read_bytes()
    assert len([path for path in files.rglob("*") if path.is_file()]) == len(card.manifest or ())


def test_a_bucket_that_has_other_bytes(services: Services, add: Add, tmp_path: Path) -> None:
    """What cannot be had as it was registered is not used at all, and the file is named."""
    card = add(pipeline(tmp_path / "source", number=11))
    assert card.manifest
    key = model_key(card.manifest[WEIGHTS]["sha256"])
    services.objects.put(key, bytes(card.manifest[WEIGHTS]["size"]), "binary/octet-stream")
    with pytest.raises(ModelFilesError, match=f"'mine': {WEIGHTS}: .* has other bytes"):
        files_of(card, tmp_path / "cache", services.objects)
    services.objects.delete([key])
    with pytest.raises(ModelFilesError, match=f"'mine': {WEIGHTS}: the bucket has no {key}"):
        files_of(card, tmp_path / "cache", services.objects)
    assert copies(tmp_path / "cache" / "models") == []


def test_a_manifest_that_was_changed(services: Services, add: Add, tmp_path: Path) -> None:
    """The digest of the manifest stands beside it, and both must agree."""
    card = add(pipeline(tmp_path / "source"))
    with pytest.raises(ModelFilesError, match="manifest is not the one registered"):
        files_of(replace(card, manifest={}), tmp_path, services.objects)


def test_a_manifest_whose_paths_lead_elsewhere(
    services: Services, add: Add, tmp_path: Path
) -> None:
    """Nothing is written outside of the copy, whoever wrote the row."""
    card = add(pipeline(tmp_path / "source", number=12))
    for path in ("../../../evil.pth", str(tmp_path / "evil.pth")):
        manifest = {**(card.manifest or {}), path: (card.manifest or {})[WEIGHTS]}
        wrong = replace(card, manifest=manifest, manifest_sha256=manifest_digest(manifest))
        with pytest.raises(ModelFilesError, match="leads out of the directory"):
            files_of(wrong, tmp_path / "cache", services.objects)
    assert not list(tmp_path.rglob("evil.pth"))


def test_several_workers_fetch_at_once(services: Services, add: Add, tmp_path: Path) -> None:
    """Those that share a cache each get a whole copy, whoever was first."""
    card = add(pipeline(tmp_path / "source", number=12))
    start = threading.Barrier(4)
    found: list[Path] = []

    def fetch() -> None:
        start.wait()
        found.append(files_of(card, tmp_path / "cache", services.objects))

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert copies(found[0].parent) == [card.manifest_sha256]


@pytest.mark.parametrize("source", ["dir:/models/mugs", "hub:acme/mugs"])
def test_a_model_from_before(tmp_path: Path, source: str) -> None:
    """Of one without digests nothing is known that could be checked."""
    old = replace(DEBUG, name="old", source=source)
    with pytest.raises(ModelFilesError, match="'old': no digests of its files are known; add it"):
        files_of(old, tmp_path)


def edit_index(folder: Path, **changes: object) -> None:
    """Change model_index.json."""
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_familys_own_check(debug_files: Path, tmp_path: Path) -> None:
    """Whoever loads a pipeline looks once more, and knows what classes diffusers has."""
    folder = Path(shutil.copytree(debug_files, tmp_path / "pipeline"))
    name = json.loads((folder / "model_index.json").read_text())["_class_name"]
    assert pipelines.check_files(folder) == name
    edit_index(folder, _class_name="MyPipeline")
    with pytest.raises(UnsafeModelError, match="'MyPipeline' is not one of diffusers' own"):
        load(folder, DEBUG, CPU)
    edit_index(folder, _class_name=name, unet=["os", "system"])
    with pytest.raises(UnsafeModelError, match="component 'unet' from 'os'"):
        load(folder, DEBUG, CPU)
    with pytest.raises(ValueError, match="not a diffusers directory"):
        load(tmp_path, DEBUG, CPU)


# diffusers 0.42 hands torch tensors to numpy 2 in its schedulers.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_registered_model_makes_pictures(  # noqa: PLR0917 (fixtures)
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    add: Add,
    debug_files: Path,
    make_runner: Callable[..., Runner],
    tmp_path: Path,
) -> None:
    """From the command to the export: its licence, and what it wants said, travel along."""
    licence = {"licence": "CC-BY-4.0", "attribution": "Mugs by Ada"}
    card = add(debug_files, **licence, details=dict(DEBUG.details))
    given = campaign(model="mine")
    given["creatives"][0]["steps"] = 2
    campaign_id = fanned_out(services, tenant_id, given)
    assert make_runner().run_next()
    assert set(jobs(engine).values()) == {("succeeded", 1, None)}
    with engine.begin() as connection:
        facts = connection.execute(text("SELECT facts FROM artifacts")).scalar_one()
    assert facts["model"] == "mine"
    assert facts["revision"] == card.revision
    assert (facts["licence"], facts["attribution"]) == ("CC-BY-4.0", ["Mugs by Ada"])
    view = requests.campaign(services, tenant_id, campaign_id)
    export_campaign(services, view, tenant_id, tmp_path / "out")
    line = json.loads((tmp_path / "out" / "manifest.jsonl").read_text())
    assert (line["licence"], line["attribution"]) == ("CC-BY-4.0", ["Mugs by Ada"])


def test_a_model_that_cannot_be_fetched(  # noqa: PLR0917 (fixtures)
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    add: Add,
    make_runner: Callable[..., Runner],
    tmp_path: Path,
) -> None:
    """A bucket that is away costs the jobs no attempt; one that has lost the files does."""
    card = add(pipeline(tmp_path / "source", number=13))
    submit(services, tenant_id, {"model": "mine"})
    away = replace(services.objects, endpoint="http://127.0.0.1:9", tries=1)
    assert make_runner(replace(services, objects=away)).run_next()
    assert set(jobs(engine).values()) == {("queued", 0, None)}
    assert card.manifest
    services.objects.delete([model_key(card.manifest[WEIGHTS]["sha256"])])
    assert make_runner().run_next()
    ((_, attempts, code),) = jobs(engine).values()
    assert (attempts, code) == (1, "model_not_loaded")


def test_adapters(
    services: Services, engine: Engine, add: Add, debug_files: Path, tmp_path: Path
) -> None:
    """A worker has the files of a model's adapters beside it, checked as they are."""
    add(debug_files)
    card = add(
        lora(tmp_path / "lora"),
        name="glow",
        adapter_for="mine",
        licence="CC-BY-4.0",
        attribution="Ada",
    )
    residency = Residency(engine, services.objects, tmp_path / "cache", CPU)
    residency.get("mine")
    use = AdapterUse(name="glow", weight=0.5)
    (adapter,) = residency.adapters([use])
    assert (adapter.identity, adapter.weight) == (f"glow@{card.revision}", 0.5)
    assert (adapter.licence, adapter.attribution) == ("CC-BY-4.0", "Ada")
    changed_file = adapter.files / "lora.safetensors"
    good = changed_file.read_bytes()
    changed_file.write_bytes(bytes(len(good)))
    assert residency.adapters([]) == []
    assert residency.adapters([use]) == [adapter]
    residency.clear()
    residency.get("mine")
    assert residency.adapters([use]) == [adapter]
    assert changed_file.read_bytes() == good
    residency.get("debug-gan")
    assert residency.adapters([]) == []
    residency.get("mine")
    assert residency.adapters([use]) == [adapter]
    with pytest.raises(ValueError, match="'mine' is no adapter for 'mine'"):
        residency.adapters([AdapterUse(name="mine")])
    away = replace(services.objects, endpoint="http://127.0.0.1:9", tries=1)
    residency = Residency(engine, away, tmp_path / "cache", CPU)
    shutil.rmtree(adapter.files)
    residency.get("mine")
    with pytest.raises(ObjectStoreError):
        residency.adapters([use])
    residency.clear()


def test_registered_models(engine: Engine) -> None:
    """A model that was added is found again as it was; names are not given twice."""
    mine = replace(DEBUG, name="mine", source="hub:acme/mugs", details={"a": [1]})
    with engine.begin() as connection:
        models.add(connection, mine)
        assert models.find(connection, "mine") == mine
        assert models.find(connection, "yours") is None
        listed = [*models.BUILT_IN.values(), mine]
        assert models.list_models(connection, None) == sorted(listed, key=lambda card: card.name)
        for taken in (mine, DEBUG):
            with pytest.raises(DuplicateModelError):
                models.add(connection, taken)
