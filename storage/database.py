"""Engines and migrations from a URL. The only place that makes an engine."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg.errors import DeadlockDetected, LockNotAvailable
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import OperationalError

MIGRATIONS = Path(__file__).parent / "migrations"
LOCK_WAIT_S = 10


def connect(
    url: str,
    *,
    application: str,
    pool_size: int = 5,
    keep_plans: bool = False,
    idle_s: int | None = None,
) -> Engine:
    """An engine for PostgreSQL 18 or newer through psycopg.

    ``application`` is what ``pg_stat_activity`` shows. Connections are checked before use, so
    that a restarted server costs a retry and not an error.

    ``keep_plans`` lets sessions keep the plans of statements that they repeat, until the tables are
    analyzed. That spares workers a quarter of a batch's cost; but a plan from when a table was
    small may be a hundred times too slow once it is large.

    A transaction in which nothing is asked for ``idle_s`` seconds is undone by the server: its
    process was stopped in the middle of it, and what it has locked is for others. None: never.
    """
    options = "" if idle_s is None else f" -c idle_in_transaction_session_timeout={idle_s}s"
    planning = "auto" if keep_plans else "force_custom_plan"
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
            "options": f"-c timezone=UTC -c plan_cache_mode={planning}{options}",
        },
    )


class MigrationBusyError(Exception):
    """A step of the migration could not get a lock in time; those before it are done."""


def migrate(engine: Engine, to: str = "head") -> None:
    """Bring the schema to the newest revision. Any number of processes may try at once.

    A schema that is newer than this code is left as it is. Each step is a transaction of its own,
    so that none holds the locks of two tables for which running claims wait crosswise, and gives up
    after `LOCK_WAIT_S` rather than have all work queue behind it.

    Raises:
        MigrationBusyError: migrate again; what has been done stays done.
    """
    with engine.connect() as guard:
        # Two that migrate at the same time would both create the first table.
        guard.exec_driver_sql("SELECT pg_advisory_lock(hashtext('presswork migrate'))")
        guard.commit()  # the lock is the session's: no transaction is held open meanwhile
        try:
            for step in _steps(revision(engine), to):
                _upgrade(engine, step)
        finally:
            guard.exec_driver_sql("SELECT pg_advisory_unlock(hashtext('presswork migrate'))")


def _steps(current: str | None, to: str) -> list[str]:
    """The revisions that are missing, in their order."""
    if not _knows(current):
        return []
    scripts = ScriptDirectory(str(MIGRATIONS)).iterate_revisions(to, current or "base")
    return [script.revision for script in reversed(list(scripts))]


def _upgrade(engine: Engine, step: str) -> None:
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_WAIT_S}s'")
            command.upgrade(_config(connection), step)
    except OperationalError as error:
        if isinstance(error.orig, LockNotAvailable | DeadlockDetected):
            raise MigrationBusyError(step) from error
        raise


def revision(engine: Engine) -> str | None:
    """The schema's revision; None: nothing has been migrated yet."""
    with engine.begin() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def newest_revision() -> str:
    """The revision that this code was written for."""
    head = ScriptDirectory(str(MIGRATIONS)).get_current_head()
    assert head is not None
    return head


def behind(engine: Engine) -> str | None:
    """Why this code cannot work with the schema yet; None: it can.

    It can with a newer one, whose revision it does not know: migrations add first, and remove in
    a later release.
    """
    current, needed = revision(engine), newest_revision()
    if current == needed or not _knows(current):
        return None
    at = current or "no revision"
    return f"the schema is at {at} and this release needs {needed}: run `presswork migrate`"


def _knows(current: str | None) -> bool:
    """Whether a schema at this revision is one that this code, or one before it, made."""
    scripts = ScriptDirectory(str(MIGRATIONS)).walk_revisions()
    return current is None or current in {script.revision for script in scripts}


def _config(connection: object) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config
