"""A kind and a family that start from files, as small as they can be."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import pytest
from pydantic import Field
from sqlalchemy import Engine

from jobs import kinds
from jobs.kinds import Kind, KindRequest
from jobs.kinds.values import ReferenceText, Seed
from storage import models
from storage.models import ModelCard, manifest_digest
from storage.objects import sha256_hex
from workers.family import Context, Device, Item, Output
from workers.registry import FAMILIES

EMPTY = manifest_digest({})


class TintRequest(KindRequest):
    """A picture, perhaps a voice, and some more pictures."""

    image: Annotated[ReferenceText, Field(description="The picture.")]
    voice: Annotated[ReferenceText | None, Field(description="A sound.")] = None
    more: Annotated[tuple[ReferenceText, ...], Field(description="More pictures.")] = ()
    model: str = "tint"
    seed: Seed = None


TINT = Kind(
    name="tint",
    summary="Tells what it was given.",
    makes="text",
    Request=TintRequest,
    templates=frozenset({"image"}),
    default_model="tint",
    example={"image": "sample:apple.png"},
    resolve=lambda request, _: request,
    batch_facts=lambda _: {},
    inputs=MappingProxyType({"image": "picture", "voice": "sound", "more": "picture"}),
)


class Tint:
    """Answers with the digests of what it was given."""

    tolerance = 0.0
    pads = False

    def debug(self, folder: Path) -> None:
        """Write nothing."""

    def load(self, files: Path, card: ModelCard, device: Device) -> str:  # noqa: ARG002
        """Nothing to load."""
        return card.name

    def max_batch(self, model: str) -> int:  # noqa: ARG002
        """Any number."""
        return 64

    def generate(
        self,
        model: str,  # noqa: ARG002
        items: Sequence[Item],
        context: Context,
    ) -> Iterator[tuple[int, list[Output]]]:
        """Media types and digests by field, as JSON."""
        for index, item in enumerate(items):
            given = {
                field: [[one.media_type, sha256_hex(one.data)] for one in inputs]
                for field, inputs in item.inputs.items()
            }
            context.step(1, 1)
            yield index, [Output(json.dumps(given).encode(), "application/json", {})]

    def unload(self, model: str) -> None:
        """Nothing to give back."""


def add_tint(engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every module know the kind, and the worker its family and model."""
    known: Any = MappingProxyType({**kinds.KINDS, "tint": TINT})
    was = kinds.KINDS
    for module in list(sys.modules.values()):
        if getattr(module, "KINDS", None) is was:
            monkeypatch.setattr(module, "KINDS", known)
    monkeypatch.setitem(FAMILIES, "tint", Tint())
    card = ModelCard(
        "tint", "tint", "tint", f"dir:{folder}", "Apache-2.0", manifest={}, manifest_sha256=EMPTY
    )
    with engine.begin() as connection:
        models.add(connection, card)
