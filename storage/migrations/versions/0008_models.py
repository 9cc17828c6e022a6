"""what a model is, file by file; what its licence allows; adapters; keys of administrators."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.execute(
        """
        ALTER TABLE models
            ADD COLUMN details jsonb DEFAULT '{}'::jsonb NOT NULL,
            ADD COLUMN manifest jsonb,
            ADD COLUMN manifest_sha256 text,
            ADD COLUMN base text,
            ADD COLUMN commercial boolean DEFAULT false NOT NULL,
            ADD COLUMN attribution text,
            ADD COLUMN licence_until date,
            ADD COLUMN retired_at timestamp with time zone
        """
    )
    op.execute("ALTER TABLE api_keys ADD COLUMN is_admin boolean DEFAULT false NOT NULL")
