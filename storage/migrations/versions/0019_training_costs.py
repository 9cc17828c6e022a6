"""what trainings cost: how fast they were, caps of tenants, and an index to find them by."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    op.create_table(
        "training_speeds",
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("sort", sa.Text(), nullable=False),
        sa.Column("work", sa.Double(), nullable=False),
        sa.Column("says", sa.Text(), nullable=False),
        sa.Column("steps_per_s", sa.Double(), nullable=False),
        sa.Column(
            "measured_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("device", "digest", name=op.f("pk_training_speeds")),
    )
    op.create_index(op.f("ix_training_speeds_sort"), "training_speeds", ["sort"], unique=False)
    op.add_column("tenants", sa.Column("train_max_steps", sa.Integer(), nullable=True))
    op.add_column("tenants", sa.Column("train_max_hours", sa.Double(), nullable=True))
    op.add_column("tenants", sa.Column("train_max_pictures", sa.Integer(), nullable=True))
    op.create_index(
        "ix_jobs_trainings",
        "jobs",
        ["tenant_id", "id"],
        unique=False,
        postgresql_where=sa.text("kind IN ('finetune', 'train')"),
    )
