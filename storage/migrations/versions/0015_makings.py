"""makings: identical jobs are made once; several artifacts may refer to one object."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.create_table(
        "makings",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("claim_id", sa.Uuid(), nullable=False),
        sa.Column(
            "since",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("tenant_id", "digest", name=op.f("pk_makings")),
    )
    op.create_index(op.f("ix_makings_job_id"), "makings", ["job_id"], unique=False)
    # Finishes wait while the index is built: about two seconds per million artifacts. Whoever reads
    # goes on.
    op.create_index(op.f("ix_artifacts_object_key"), "artifacts", ["object_key"], unique=False)
    op.drop_constraint(op.f("uq_artifacts_object_key"), "artifacts", type_="unique")
