"""an index for keys that take turns, and jobs that are vacuumed in time."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    # Claims, finishes and submissions wait while the index is built: about two seconds per million
    # queued jobs. Whoever reads goes on.
    op.create_index(
        "ix_jobs_turns",
        "jobs",
        ["pool", "priority", "batch_key", "id"],
        unique=False,
        postgresql_where=sa.text("status = 'queued'"),
    )
    # ix_jobs_queued stays for workers of the release before.
    op.execute(
        "ALTER TABLE jobs SET (autovacuum_vacuum_scale_factor = 0.02,"
        " autovacuum_vacuum_threshold = 1000)"
    )
