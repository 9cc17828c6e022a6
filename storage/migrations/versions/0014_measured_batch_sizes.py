"""what was measured of each size of call; a limit is not always known beside it."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.alter_column("batch_sizes", "size", existing_type=sa.Integer(), nullable=True)
    for column in (
        sa.Column("rates", postgresql.JSONB(none_as_null=True), nullable=True),
        sa.Column("peak_bytes", sa.BigInteger(), nullable=True),
        sa.Column("torch", sa.Text(), nullable=True),
        sa.Column("measured_at", sa.DateTime(timezone=True), nullable=True),
    ):
        op.add_column("batch_sizes", column)
