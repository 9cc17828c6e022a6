"""What all tables have in common: their base, and the parts that several of them are made of."""

from datetime import datetime
from typing import Any

from sqlalchemy import DateTime, Index, MetaData, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase


class Base(DeclarativeBase):
    """Constraint names are spelt out, so that migrations can name what they change."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 (SQLAlchemy reads it as a class attribute)
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        str: Text,
    }


now = func.clock_timestamp()


def in_(column: str, values: Any) -> str:
    """The CHECK that ``column`` has one of ``values``."""
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


def idempotency(table: str) -> Index:
    """A tenant has no two rows of one idempotency key."""
    # Partial: the million jobs of a campaign have no key and need no entry.
    return Index(
        f"uq_{table}_idempotency_key",
        "tenant_id",
        "idempotency_key",
        unique=True,
        postgresql_where=text("idempotency_key IS NOT NULL"),
    )
