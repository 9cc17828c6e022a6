"""Tenants and their API keys."""

import hashlib
import secrets
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, text

KEY_PREFIX = "pw_"


class UnknownTenantError(Exception):
    """There is no tenant of that name."""


@dataclass(frozen=True)
class Tenant:
    """Who pays, and who may see."""

    id: UUID
    name: str


@dataclass(frozen=True)
class Caller:
    """Whose key it is, and whether it may also administrate everybody's models."""

    tenant_id: UUID
    is_admin: bool


def ensure(connection: Connection, name: str) -> UUID:
    """The tenant of that name, created where it does not exist."""
    connection.execute(
        text("INSERT INTO tenants (name) VALUES (:name) ON CONFLICT (name) DO NOTHING"),
        {"name": name},
    )
    return find(connection, name)


def find(connection: Connection, name: str) -> UUID:
    """The tenant's id; `UnknownTenantError` where there is none."""
    found = connection.execute(
        text("SELECT id FROM tenants WHERE name = :name"), {"name": name}
    ).scalar()
    if found is None:
        raise UnknownTenantError(name)
    return UUID(str(found))


def get(connection: Connection, tenant_id: UUID) -> Tenant:
    """The tenant with its name."""
    name = connection.execute(
        text("SELECT name FROM tenants WHERE id = :id"), {"id": tenant_id}
    ).scalar_one()
    return Tenant(tenant_id, name)


def new_key(connection: Connection, tenant_id: UUID, name: str, *, is_admin: bool = False) -> str:
    """A fresh API key for the tenant: 256 random bits, of which only the digest is kept."""
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    add_key(connection, tenant_id, name, key, is_admin=is_admin)
    return key


def add_key(
    connection: Connection, tenant_id: UUID, name: str, key: str, *, is_admin: bool = False
) -> None:
    """Accept ``key`` for the tenant; of one that is accepted already only ``is_admin`` changes."""
    connection.execute(
        text(
            """
            INSERT INTO api_keys (tenant_id, name, key_sha256, is_admin)
            VALUES (:tenant_id, :name, :digest, :is_admin)
            ON CONFLICT (key_sha256) DO UPDATE SET is_admin = excluded.is_admin
            """
        ),
        {"tenant_id": tenant_id, "name": name, "digest": _digest(key), "is_admin": is_admin},
    )


def authenticate(connection: Connection, key: str) -> Caller | None:
    """Whose key this is; None: nobody's, or it was revoked."""
    found = connection.execute(
        text(
            "SELECT tenant_id, is_admin FROM api_keys "
            "WHERE key_sha256 = :digest AND revoked_at IS NULL"
        ),
        {"digest": _digest(key)},
    ).first()
    return Caller(found.tenant_id, found.is_admin) if found else None


def _digest(key: str) -> str:
    # A plain hash is enough for a key that is random: there is nothing to guess.
    return hashlib.sha256(key.encode()).hexdigest()
