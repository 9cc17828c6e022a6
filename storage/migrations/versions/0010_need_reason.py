"""a reason to wait: a need."""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.drop_constraint(op.f("ck_jobs_wait_reason"), "jobs")
    # Not valid: to read a table of many millions would keep everybody out for as long.
    op.execute(
        "ALTER TABLE jobs ADD CONSTRAINT ck_jobs_wait_reason "
        "CHECK (wait_reason IS NULL OR wait_reason IN ('backoff', 'window', 'need')) NOT VALID"
    )
