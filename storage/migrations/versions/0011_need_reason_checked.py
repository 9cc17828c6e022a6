"""the reason to wait, checked in every row; and the jobs that wait for a need, in order."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.execute("ALTER TABLE jobs VALIDATE CONSTRAINT ck_jobs_wait_reason")
    # Claims, finishes and submissions wait while the table is read once: there are no such jobs.
    op.create_index(
        "ix_jobs_needing",
        "jobs",
        ["id"],
        unique=False,
        postgresql_where=sa.text("wait_reason = 'need'"),
    )
