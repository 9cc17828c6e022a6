"""Datasets as rows: under which name a tenant has which content, and on what terms."""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Connection, Row, func, select, update
from sqlalchemy.dialects.postgresql import insert

from storage import tables

Kind = Literal["pictures", "text"]


@dataclass(frozen=True)
class Dataset:
    """A tenant's dataset: a name never changes its meaning.

    ``digest`` is the sha256 over the manifest, which lies at ``manifest_key`` and has a line per
    item; ``count`` is how many. ``consent`` says who agreed to the use in training. With
    ``removed_at``, nothing more may be trained on it.
    """

    name: str
    kind: Kind
    licence: str
    consent: str
    attribution: str | None
    trigger: str | None
    count: int
    digest: str
    manifest_key: str
    created_at: datetime
    removed_at: datetime | None


_columns = [getattr(tables.Dataset, field.name) for field in fields(Dataset)]


def manifest_key(tenant_id: UUID, digest: str) -> str:
    """Where a manifest lies: below a prefix that no other tenant can name."""
    return f"datasets/{tenant_id}/{digest}.jsonl"


def add(connection: Connection, tenant_id: UUID, name: str, **columns: Any) -> Dataset:
    """Register a dataset, unless the name is taken: then that one, as it is, whatever it is."""
    connection.execute(
        insert(tables.Dataset)
        .values(tenant_id=tenant_id, name=name, **columns)
        .on_conflict_do_nothing(index_elements=["tenant_id", "name"])
    )
    dataset = find(connection, tenant_id, name)
    assert dataset
    return dataset


def find(connection: Connection, tenant_id: UUID, name: str) -> Dataset | None:
    """The tenant's dataset of that name, also one that was removed."""
    row = connection.execute(
        select(*_columns).where(tables.Dataset.tenant_id == tenant_id, tables.Dataset.name == name)
    ).first()
    return _dataset(row) if row else None


def every(connection: Connection, tenant_id: UUID) -> list[Dataset]:
    """The tenant's datasets by name, also those that were removed."""
    rows = connection.execute(
        select(*_columns).where(tables.Dataset.tenant_id == tenant_id).order_by(tables.Dataset.name)
    )
    return [_dataset(row) for row in rows]


def remove(connection: Connection, tenant_id: UUID, name: str) -> Dataset | None:
    """Mark a dataset as removed; once removed it stays so. None: there is none of that name."""
    connection.execute(
        update(tables.Dataset)
        .where(
            tables.Dataset.tenant_id == tenant_id,
            tables.Dataset.name == name,
            tables.Dataset.removed_at.is_(None),
        )
        .values(removed_at=func.clock_timestamp())
    )
    return find(connection, tenant_id, name)


def _dataset(row: Row[Any]) -> Dataset:
    return Dataset(**row._asdict())
