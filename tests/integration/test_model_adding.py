"""Adding models: from each sort of source, once and for all, and what is refused."""

import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

import huggingface_hub
import pytest
from huggingface_hub import constants
from sqlalchemy import Engine

from jobs.kinds.image_details import details_of
from jobs.problems import BadInputError
from jobs.registry import adding, keeping, mirror, sources
from jobs.registry.adding import Added
from jobs.registry.specs import ModelSpec
from jobs.services import Services
from storage import models, objects
from storage.models import ModelCard, manifest_digest
from storage.objects import ObjectStore, ObjectStoreError, model_key, sha256_hex
from tests.integration.doors import rows
from tests.model_trees import lora, pipeline, tensors, write

COMMIT = "0123456789abcdef0123456789abcdef01234567"

Add = Callable[..., Added]


@pytest.fixture
def add(services: Services) -> Add:
    """Adds a model of a licence that allows all."""

    def add(source: str, **fields: Any) -> Added:
        given = {"name": "mugs", "licence": "MIT", "size": "64x64", **fields}
        return adding.add(services, ModelSpec(source=source, **given))

    return add


def refused(add: Add, source: str, **fields: Any) -> str:
    """What is said of a model that is not added."""
    with pytest.raises(BadInputError) as caught:
        add(source, **fields)
    return str(caught.value)


def stored(services: Services, card: ModelCard) -> dict[str, bytes]:
    """What the bucket holds of a model."""
    return {
        path: services.objects.get(model_key(entry["sha256"]))
        for path, entry in (card.manifest or {}).items()
    }


def contents(folder: Path) -> dict[str, bytes]:
    """The files below a directory."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_directory(
    services: Services, tenant_id: UUID, engine: Engine, add: Add, tmp_path: Path
) -> None:
    """What is registered is every file by its digest, and the bucket has them all."""
    write(pipeline(tmp_path) / ".gitattributes", "*.safetensors filter=lfs")
    added = add(f"dir:{tmp_path}", details={"negative_prompt": False})
    card = added.card
    files = contents(tmp_path)
    assert added.left_out == (".gitattributes",)
    del files[".gitattributes"]
    assert stored(services, card) == files
    assert card.manifest == {
        path: {"sha256": sha256_hex(body), "size": len(body)} for path, body in files.items()
    }
    assert card.manifest_sha256 == manifest_digest(card.manifest)
    assert card.manifest_sha256.startswith(card.revision)
    assert (card.identity, card.commercial) == (f"mugs@{card.revision}", True)
    # What its class can do, and what was said of it.
    found = details_of("StableDiffusionPipeline")
    assert card.details == {**found, "negative_prompt": False}
    with engine.begin() as connection:
        assert models.find(connection, "mugs") == card
        listed = [each for each in models.list_models(connection, None) if each.name == "mugs"]
    assert listed == [replace(card, manifest=None)]
    assert keeping.check(services, tenant_id, "mugs") == []


def hub(folder: Path) -> Path:
    """A hub cache as a download leaves it: blobs, links to them, and what the branch is."""
    model = folder / "models--acme--mugs"
    snapshot = model / "snapshots" / COMMIT
    write(model / "refs" / "main", COMMIT)
    for path, body in contents(pipeline(folder / "plain")).items():
        blob = write(model / "blobs" / sha256_hex(body), body)
        link = snapshot / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    write(snapshot / "pipeline.py", "raise SystemExit")
    return snapshot


def test_the_hub(
    services: Services, add: Add, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A branch is kept as the commit that it is now; what is not data is left out, and told."""
    hub(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert huggingface_hub.constants.is_offline_mode()
    added = add("hub:acme/mugs@main")
    assert (added.card.source, added.card.revision) == ("hub:acme/mugs", COMMIT)
    assert added.left_out == ("pipeline.py",)
    assert stored(services, added.card) == contents(tmp_path / "plain")
    assert "the hub has no acme/mugs at dev for us" in refused(
        add, "hub:acme/mugs@dev", name="others"
    )


def test_a_link_out_of_the_hubs_cache(
    add: Add, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache's links lead to the blobs of that model, and to nothing else on the machine."""
    snapshot = hub(tmp_path)
    (snapshot / "vocab.txt").symlink_to("/etc/hostname")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refused(add, "hub:acme/mugs@main") == ("vocab.txt: is a link out of the directory")


def test_the_bucket(services: Services, add: Add, tmp_path: Path) -> None:
    """Objects below a prefix are a source, unless their names could mean files elsewhere."""
    files = contents(pipeline(tmp_path))
    for path, body in files.items():
        services.objects.put(f"incoming/mugs/{path}", body, "binary/octet-stream")
    card = add("s3:incoming/mugs").card
    assert card.source == "s3:incoming/mugs/"
    assert stored(services, card) == files
    services.objects.put("incoming/mugs/vae/c:x.txt", b"x", "text/plain")
    assert "its path leads out of the directory" in refused(add, "s3:incoming/mugs", name="others")
    assert "the bucket has nothing below nowhere/" in refused(add, "s3:nowhere", name="others")


def test_an_installed_package(
    services: Services, add: Add, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a package only the data is taken; none of its code is run to find it."""
    files = contents(pipeline(tmp_path / "plain"))
    for path, body in files.items():
        write(tmp_path / "site" / "acme_mugs" / "model" / path, body)
    write(tmp_path / "site" / "acme_mugs" / "__init__.py", "raise SystemExit")
    write(tmp_path / "site" / "acme_mugs" / "readme.md", "Mugs.")
    about = tmp_path / "site" / "acme_mugs-1.2.dist-info"
    write(about / "METADATA", "Metadata-Version: 2.1\nName: acme-mugs\nVersion: 1.2\n")
    names = [f"acme_mugs/model/{path},," for path in files]
    names += ["acme_mugs/__init__.py,,", "acme_mugs/readme.md,,", "../../bin/mugs,,"]
    write(about / "RECORD", "\n".join(names))
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site")])
    added = add("pip:acme-mugs")
    assert (added.card.source, added.card.revision) == ("pip:acme-mugs", "1.2")
    assert stored(services, added.card) == files
    assert set(added.left_out) == {
        *("acme_mugs/__init__.py", "acme_mugs/readme.md", "../../bin/mugs"),
    }
    assert "acme_mugs" not in sys.modules


def test_a_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is not installed is only unpacked, and cannot write outside of its folder."""
    wheel = tmp_path / "acme_mugs-1.3-py3-none-any.whl"
    link = zipfile.ZipInfo("acme_mugs/link.txt")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("acme_mugs/config.json", "{}")
        archive.writestr("acme_mugs/setup.py", "raise SystemExit")
        archive.writestr(
            "acme_mugs-1.3.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: acme-mugs\nVersion: 1.3\n",
        )
        archive.writestr("acme_mugs-1.3.dist-info/WHEEL", "Wheel-Version: 1.0\n")
        archive.writestr("../../escaped.txt", "x")
        archive.writestr("/escaped.txt", "x")
        archive.writestr(link, "/etc/hostname")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    store = ObjectStore(None, "unused")
    with sources.opened("pip:acme-mugs", store) as source:
        assert source.revision == "1.3"
        assert source.tree.files["acme_mugs/config.json"].read_text() == "{}"
        assert source.tree.left_out[0] == "acme_mugs/setup.py"
        assert [str(problem) for problem in source.tree.problems] == [
            "../../escaped.txt: its path leads out of the directory",
            "/escaped.txt: its path leads out of the directory",
            "acme_mugs/link.txt: is a link",
        ]
    monkeypatch.setattr(sources, "MAX_UNPACKED_BYTES", 1)
    with sources.opened("pip:acme-mugs@1.3", store) as source:
        assert "acme_mugs/config.json: is one too many" in str(source.tree.problems[0])
    with (
        pytest.raises(BadInputError, match="pip could not download a wheel of acme-mugs==9"),
        sources.opened("pip:acme-mugs@9", store),
    ):
        pass


def test_all_that_is_wrong_is_said_at_once(
    add: Add, engine: Engine, services: Services, tmp_path: Path
) -> None:
    """Nothing is registered or stored of a model of which one file is refused."""
    weights = write(pipeline(tmp_path, number=1) / "unet" / "model.bin", b"\x80\x04.")
    write(tmp_path / "unet" / "unet.py", "raise SystemExit")
    said = refused(add, f"dir:{tmp_path}").splitlines()
    assert [line.partition(":")[0] for line in said] == ["unet/model.bin", "unet/unet.py"]
    assert rows(engine)["models"] == 0
    good = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    for file in (weights, good):
        assert services.objects.size(model_key(sha256_hex(file.read_bytes()))) is None


def test_no_weights_at_all(add: Add, tmp_path: Path) -> None:
    """A directory without weights that can be used is no model; what is no pipeline neither."""
    write(tmp_path / "config.json", {})
    assert "there are no weights (safetensors, GGUF or ONNX) in it" in refused(
        add, f"dir:{tmp_path}"
    )
    tensors(tmp_path / "model.safetensors", {"w": (1,)})
    assert "it is not a diffusers directory: it has no model_index.json" in refused(
        add, f"dir:{tmp_path}"
    )
    assert "there is no directory /nowhere" in refused(add, "dir:/nowhere")


def test_an_interrupted_add_goes_on(  # noqa: PLR0917 (fixtures)
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    add: Add,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A bucket that goes away leaves no model; what is in it by then is not sent again."""
    source = f"dir:{pipeline(tmp_path, number=2)}"
    put = ObjectStore.put_file
    sent: list[str] = []
    room = 1

    def put_some(self: ObjectStore, key: str, file: BinaryIO) -> None:
        if len(sent) == room:
            raise ObjectStoreError("gone")
        sent.append(key)
        put(self, key, file)

    monkeypatch.setattr(ObjectStore, "put_file", put_some)
    with pytest.raises(ObjectStoreError):
        add(source)
    assert rows(engine)["models"] == 0
    room = 99
    add(source)
    assert len(sent) == len(set(sent)) > 1
    assert keeping.check(services, tenant_id, "mugs") == []


def test_an_object_that_was_changed(
    services: Services, tenant_id: UUID, engine: Engine, add: Add, tmp_path: Path
) -> None:
    """The check finds other bytes of the same size, and what is missing; adding again mends it."""
    source = f"dir:{pipeline(tmp_path, number=3)}"
    card = add(source).card
    weights = "vae/diffusion_pytorch_model.safetensors"
    assert card.manifest
    entry = card.manifest[weights]
    key = model_key(entry["sha256"])
    services.objects.put(key, bytes(entry["size"]), "binary/octet-stream")
    assert keeping.check(services, tenant_id, "mugs") == [
        f"{weights}: {key} has the sha256 {sha256_hex(bytes(entry['size']))}"
    ]
    services.objects.put(key, b"", "binary/octet-stream")
    assert keeping.check(services, tenant_id, "mugs") == [
        f"{weights}: {key} has 0 bytes instead of {entry['size']}"
    ]
    services.objects.delete([key])
    assert keeping.check(services, tenant_id, "mugs") == [f"{weights}: the bucket has no {key}"]
    assert add(source, name="again").card.manifest == card.manifest
    assert keeping.check(services, tenant_id, "mugs") == []


def test_a_large_file_goes_up_in_parts(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a certain size on, as S3 takes no more than 5 GB at once."""
    monkeypatch.setattr(objects, "MULTIPART_FROM_BYTES", 6 * 1024**2)
    monkeypatch.setattr(objects, "PART_BYTES", 5 * 1024**2)
    body = bytes(range(256)) * 4096 * 7
    file = write(tmp_path / "large", body)
    manifest = mirror.manifest_of({"large": file})
    told: list[tuple[int, int]] = []
    mirror.store(services.objects, {"large": file}, manifest, lambda *how: told.append(how))
    assert told == [(len(body), len(body))]
    key = model_key(sha256_hex(body))
    with services.objects.open(key) as found:
        assert found.etag.endswith('-2"')
        assert found.stream.read() == body


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"licence": "CC-BY-4"}, "licence: Presswork does not know 'CC-BY-4' (did you mean 'CC"),
        ({"licence": "CC-BY-4.0"}, "attribution: CC-BY-4.0 wants the author named"),
        ({"licence": "LicenseRef-stability-ai-community"}, "commercial: LicenseRef-stability-ai-"),
        ({"kind": "poem"}, "kind: unknown kind 'poem'"),
        ({"adapter_for": "cups"}, "adapter_for: there is no model 'cups'"),
        ({"size": "100x100"}, "size: 100x100: model 'mugs' takes sides that are multiples of 8"),
        ({"steps": 5000}, "steps: Input should be less than or equal to 1000"),
    ],
)
def test_what_must_be_said(add: Add, tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    """A model is not added until all is known that jobs must be told of it."""
    assert refused(add, f"dir:{pipeline(tmp_path)}", **fields).startswith(said)


def test_licences(add: Add, tmp_path: Path) -> None:
    """What a licence allows is known for many; for others, or another contract, it is said."""
    source = f"dir:{pipeline(tmp_path)}"

    def rules(**fields: Any) -> tuple[bool, str | None]:
        card = add(source, name=f"m{len(fields)}{fields['licence']}", **fields).card
        return card.commercial, card.attribution

    assert rules(licence="CC-BY-NC-4.0", attribution="Ada") == (False, "Ada")
    assert rules(licence="LicenseRef-llama3.1") == (True, "Built with Llama")
    assert rules(licence="LicenseRef-flux-1-dev-non-commercial") == (False, None)
    assert rules(licence="LicenseRef-flux-1-dev-non-commercial", commercial=True) == (True, None)
    assert rules(licence="LicenseRef-ours", commercial=False, attribution="Us") == (False, "Us")


def test_an_adapter(add: Add, tmp_path: Path) -> None:
    """A LoRA is registered for its model, with the rank that its shapes have."""
    add(f"dir:{pipeline(tmp_path / 'base')}", pool="gpu")
    card = add(f"dir:{lora(tmp_path / 'lora')}", name="glow", adapter_for="mugs").card
    assert (card.kind, card.base, card.family, card.pool) == ("adapter", "mugs", "diffusion", "gpu")
    targets = ["unet.mid.attn.to_q"]
    assert card.details == {"rank": 4, "layers": 1, "targets": targets, "bank": True}
    source = f"dir:{tmp_path / 'lora'}"
    assert "adapter_for: there is no model 'glow'" in refused(
        add, source, name="more", adapter_for="glow"
    )
    weights = tmp_path / "lora" / "lora.safetensors"
    wrong: list[tuple[dict[str, tuple[int, ...]], str]] = [
        ({"unet.q.lora_A.weight": (4, 8)}, "'unet.q' has only one of its two matrices"),
        ({"unet.q.weight": (4, 8)}, "has a tensor 'unet.q.weight', which no LoRA has"),
        ({"q.alpha": (1,)}, "has no LoRA matrices"),
    ]
    for shapes, said in wrong:
        tensors(weights, shapes)
        assert refused(add, source, name="more", adapter_for="mugs") == f"lora.safetensors: {said}"
    tensors(
        weights, {"u_q.lora_down.weight": (2, 8), "u_q.lora_up.weight": (8, 2), "u_q.alpha": ()}
    )
    assert add(source, name="kohya", adapter_for="mugs").card.details["rank"] == 2
    tensors(tmp_path / "lora" / "second.safetensors", {"w": (1,)})
    assert "an adapter is one .safetensors file" in refused(
        add, source, name="more", adapter_for="mugs"
    )


def test_a_language_models_adapter(add: Add, tmp_path: Path) -> None:
    """As PEFT saves it, and not without what PEFT writes beside the weights."""
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    shapes = {f"{layer}.lora_A.weight": (2, 8), f"{layer}.lora_B.weight": (8, 2)}
    tensors(tmp_path / "adapter_model.safetensors", shapes)
    source = f"dir:{tmp_path}"
    assert refused(add, source, name="voice", adapter_for="debug-lm").startswith(
        "adapter_config.json: is missing"
    )
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "auto_mapping": None}
    write(tmp_path / "adapter_config.json", settings)
    card = add(source, name="voice", adapter_for="debug-lm").card
    assert (card.kind, card.base, card.family) == ("adapter", "debug-lm", "causal_lm")
    assert card.details["bank_refused"] == "it is for a language model"


def test_gguf_is_for_language_models(add: Add, tmp_path: Path) -> None:
    """Where GGUF cannot be turned into what the family loads, that is said."""
    write(pipeline(tmp_path) / "model.gguf", b"GGUF\x03\0\0\0")
    assert "model.gguf: source: GGUF is for models of family causal_lm" in refused(
        add, f"dir:{tmp_path}"
    )


def test_a_retired_model(services: Services, tenant_id: UUID, add: Add, tmp_path: Path) -> None:
    """It stays retired from the first time on, and its name is not free again."""
    source = f"dir:{pipeline(tmp_path)}"
    add(source)
    first = keeping.retire(services, tenant_id, "mugs").retired_at
    assert first
    assert keeping.retire(services, tenant_id, "mugs").retired_at == first
    with pytest.raises(models.DuplicateModelError):
        add(source)
