"""what workers say about themselves: memory, models, what they are at, and what they count."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.add_column("workers", sa.Column("memory_used_bytes", sa.BigInteger(), nullable=True))
    op.add_column("workers", sa.Column("memory_total_bytes", sa.BigInteger(), nullable=True))
    for name, empty in (("models", "'[]'::jsonb"), ("counters", "'{}'::jsonb")):
        op.add_column(
            "workers",
            sa.Column(name, postgresql.JSONB(), server_default=sa.text(empty), nullable=False),
        )
    op.add_column("workers", sa.Column("batch_key", sa.Text(), nullable=True))
    op.add_column("workers", sa.Column("outputs_per_s", sa.Double(), nullable=True))
