"""housekeeping: orphaned objects, and when a campaign's counters are checked next."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "orphans",
        sa.Column("claim_id", sa.Uuid(), nullable=False),
        sa.Column(
            "noted_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column(
            "look_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("looks", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("claim_id", name=op.f("pk_orphans")),
    )
    op.create_index(op.f("ix_orphans_look_at"), "orphans", ["look_at"], unique=False)
    # With a default, so that campaigns of older releases, and those that they still submit, are
    # checked as well.
    op.add_column(
        "campaigns",
        sa.Column(
            "reconcile_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("(clock_timestamp() + '01:00:00'::interval)"),
            nullable=True,
        ),
    )
    op.create_index(
        "ix_campaigns_reconcile_at",
        "campaigns",
        ["reconcile_at"],
        unique=False,
        postgresql_where=sa.text("reconcile_at IS NOT NULL"),
    )
