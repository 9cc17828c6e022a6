"""an index for tenants that take turns."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    # Claims, finishes and submissions wait while the index is built: about two seconds per million
    # queued jobs. Whoever reads goes on. Workers of the release before find their jobs without an
    # index of their own: right, but by sorting what is queued.
    op.drop_index("ix_jobs_queued", "jobs")
    op.drop_index("ix_jobs_turns", "jobs")
    op.create_index(
        "ix_jobs_turns",
        "jobs",
        ["pool", "priority", "tenant_id", "batch_key", "id"],
        unique=False,
        postgresql_where=sa.text("status = 'queued'"),
    )
