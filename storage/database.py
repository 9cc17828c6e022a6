"""Engines and migrations from a URL. The only place that makes an engine."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine

MIGRATIONS = Path(__file__).parent / "migrations"


def connect(url: str, *, application: str, pool_size: int = 5) -> Engine:
    """An engine for PostgreSQL 18 or newer through psycopg.

    ``application`` is what ``pg_stat_activity`` shows. Connections are checked before use, so
    that a restarted server costs a retry and not an error.
    """
    return create_engine(
        url,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=True,
        # Values are customers' data, and errors are logged.
        hide_parameters=True,
        connect_args={
            "application_name": application,
            "connect_timeout": 10,
            # A host that vanished without a word is noticed in seconds, not in a quarter hour.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 15_000,
            # Sessions do not depend on what the server's administrator chose.
            "options": "-c timezone=UTC",
        },
    )


def migrate(engine: Engine) -> None:
    """Bring the schema to the newest revision. Any number of processes may try at once."""
    with engine.begin() as connection:
        # Two that migrate at the same time would both create the first table.
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('presswork migrate'))")
        command.upgrade(_config(connection), "head")


def revision(engine: Engine) -> str | None:
    """The schema's revision; None: nothing has been migrated yet."""
    with engine.begin() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def newest_revision() -> str:
    """The revision that this code was written for."""
    head = ScriptDirectory(str(MIGRATIONS)).get_current_head()
    assert head is not None
    return head


def _config(connection: object) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config
