"""a reason to wait: a pause, and the flag that asks for it."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    # A constant default is written into no row: this is instant, as what follows.
    op.add_column(
        "jobs",
        sa.Column("pause_requested", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    op.drop_constraint(op.f("ck_jobs_wait_reason"), "jobs")
    # Not valid: to read a table of many millions would keep everybody out for as long.
    op.execute(
        "ALTER TABLE jobs ADD CONSTRAINT ck_jobs_wait_reason CHECK (wait_reason IS NULL "
        "OR wait_reason IN ('backoff', 'window', 'need', 'pause')) NOT VALID"
    )
