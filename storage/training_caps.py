"""What a tenant's trainings may have at most, where that is not as the deployment has it."""

from dataclasses import dataclass, fields
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, select, update

from storage import tables


@dataclass(frozen=True)
class OwnCaps:
    """Steps and hours of a training, and pictures of its dataset; None: as for all tenants."""

    max_steps: int | None = None
    max_hours: float | None = None
    max_pictures: int | None = None


_names = [field.name for field in fields(OwnCaps)]


def of(connection: Connection, tenant_id: UUID) -> OwnCaps:
    """The caps of a tenant that there is."""
    columns = [getattr(tables.Tenant, f"train_{name}") for name in _names]
    found = connection.execute(select(*columns).where(tables.Tenant.id == tenant_id)).one()
    return OwnCaps(*found)


def put(connection: Connection, tenant_id: UUID, caps: OwnCaps) -> None:
    """Give a tenant these caps, and no others."""
    values: dict[str, Any] = {f"train_{name}": getattr(caps, name) for name in _names}
    connection.execute(update(tables.Tenant).where(tables.Tenant.id == tenant_id).values(values))
