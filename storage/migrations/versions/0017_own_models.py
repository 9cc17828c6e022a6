"""models of a tenant's own."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.add_column("models", sa.Column("tenant_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(op.f("fk_models_tenant_id"), "models", "tenants", ["tenant_id"], ["id"])
    op.create_check_constraint(
        op.f("ck_models_own_name"), "models", "tenant_id IS NULL OR strpos(name, '/') > 0"
    )
    op.create_index(op.f("ix_models_tenant_id"), "models", ["tenant_id"], unique=False)
