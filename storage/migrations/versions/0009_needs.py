"""needs: jobs that start from what other jobs make, and creatives from what others make."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "job_needs",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("need_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("need_id", "job_id", name=op.f("pk_job_needs")),
    )
    op.create_index(op.f("ix_job_needs_job_id"), "job_needs", ["job_id"], unique=False)
    # With a default, so that the release before may go on submitting campaigns.
    op.execute("ALTER TABLE creatives ADD COLUMN needs jsonb DEFAULT '[]'::jsonb NOT NULL")
