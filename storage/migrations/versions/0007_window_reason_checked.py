"""the reason to wait, checked in every row: nobody waits for that."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.execute("ALTER TABLE jobs VALIDATE CONSTRAINT ck_jobs_wait_reason")
