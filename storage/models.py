"""The model registry as data: what a model is called, where its files are, what it takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection, Row, insert, select
from sqlalchemy.exc import IntegrityError

from storage import tables


@dataclass(frozen=True)
class ModelCard:
    """A model under its registered name.

    ``source`` is ``builtin:NAME``, ``dir:PATH`` (a path on the workers' hosts) or
    ``hub:ORG/NAME``; ``revision`` pins a hub source to a commit. Sizes are in pixels.
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

    @property
    def identity(self) -> str:
        """Changes whenever the weights may change: part of every batch key."""
        return f"{self.name}@{self.revision}" if self.revision else self.name


BUILT_IN: Mapping[str, ModelCard] = MappingProxyType(
    {
        "debug-diffusion": ModelCard(
            name="debug-diffusion",
            family="diffusion",
            kind="image",
            source="builtin:debug-diffusion",
            revision="1",
            licence="Apache-2.0",
            max_side_px=512,
            default_size="128x128",
            default_steps=8,
            default_guidance=5.0,
        )
    }
)


class DuplicateModelError(Exception):
    """A model of that name is registered already."""


def find(connection: Connection, name: str) -> ModelCard | None:
    """The model registered as ``name``, if any."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    row = connection.execute(
        select(tables.Model.__table__).where(tables.Model.name == name)
    ).first()
    return _card(row) if row else None


def list_models(connection: Connection) -> list[ModelCard]:
    """All models, by name."""
    rows = connection.execute(select(tables.Model.__table__)).all()
    cards = [*BUILT_IN.values(), *(_card(row) for row in rows)]
    return sorted(cards, key=lambda card: card.name)


def add(connection: Connection, card: ModelCard) -> None:
    """Register ``card``.

    Raises:
        DuplicateModelError: the name is taken; a registered model never changes its meaning.
    """
    if card.name in BUILT_IN:
        raise DuplicateModelError(card.name)
    try:
        with connection.begin_nested():
            connection.execute(insert(tables.Model).values(vars(card)))
    except IntegrityError as error:
        raise DuplicateModelError(card.name) from error


def _card(row: Row[Any]) -> ModelCard:
    return ModelCard(**{name: getattr(row, name) for name in ModelCard.__dataclass_fields__})
