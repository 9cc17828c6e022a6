"""Tenants and their API keys."""

import hashlib
import secrets
from uuid import UUID

from sqlalchemy import Connection, text

KEY_PREFIX = "pw_"


class UnknownTenantError(Exception):
    """There is no tenant of that name."""


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


def new_key(connection: Connection, tenant_id: UUID, name: str) -> str:
    """A fresh API key for the tenant: 256 random bits, of which only the digest is kept."""
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    add_key(connection, tenant_id, name, key)
    return key


def add_key(connection: Connection, tenant_id: UUID, name: str, key: str) -> None:
    """Accept ``key`` for the tenant; nothing happens if it is accepted already."""
    connection.execute(
        text(
            """
            INSERT INTO api_keys (tenant_id, name, key_sha256)
            VALUES (:tenant_id, :name, :digest) ON CONFLICT (key_sha256) DO NOTHING
            """
        ),
        {"tenant_id": tenant_id, "name": name, "digest": _digest(key)},
    )


def authenticate(connection: Connection, key: str) -> UUID | None:
    """Whose key this is; None: nobody's, or it was revoked."""
    found = connection.execute(
        text("SELECT tenant_id FROM api_keys WHERE key_sha256 = :digest AND revoked_at IS NULL"),
        {"digest": _digest(key)},
    ).scalar()
    return UUID(str(found)) if found else None


def _digest(key: str) -> str:
    # A plain hash is enough for a key that is random: there is nothing to guess.
    return hashlib.sha256(key.encode()).hexdigest()
