"""The migrated schema is the one that the code was written for, however it came about."""

from collections.abc import Iterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, text

from storage import database, tenants
from storage.database import MigrationBusyError
from storage.tables import Base
from tests.integration.ledger_cases import rows, together

DESCRIPTIONS = {
    "columns": """
        SELECT attrelid::regclass || '.' || attname AS name,
               format_type(atttypid, atttypmod) || ' ' || attnotnull || ' '
                   || coalesce(pg_get_expr(adbin, adrelid), '') AS definition
        FROM pg_attribute
        JOIN pg_class ON pg_class.oid = attrelid AND relkind = 'r'
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE relnamespace = 'public'::regnamespace AND attnum > 0 AND NOT attisdropped
        """,
    "constraints": """
        SELECT conrelid::regclass || '.' || conname AS name, pg_get_constraintdef(oid) AS definition
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace
        """,
    "indexes": """
        SELECT indexname AS name, indexdef AS definition
        FROM pg_indexes WHERE schemaname = 'public'
        """,
    "storage": """
        SELECT relname AS name, reloptions::text AS definition
        FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
        """,
}


@pytest.fixture
def fresh(engine: Engine) -> Iterator[Engine]:
    """A database in which nothing has been made yet."""
    administrator = engine.execution_options(isolation_level="AUTOCOMMIT")
    with administrator.connect() as connection:
        connection.execute(text("CREATE DATABASE fresh TEMPLATE template0"))
    url = engine.url.set(database="fresh").render_as_string(hide_password=False)
    empty = database.connect(url, application="presswork tests")
    yield empty
    empty.dispose()
    with administrator.connect() as connection:
        connection.execute(text("DROP DATABASE fresh WITH (FORCE)"))


def described(engine: Engine, what: str) -> dict[str, str]:
    """All columns, constraints, indexes or tables in the server's words, by name."""
    found = rows(engine, DESCRIPTIONS[what])
    return {row.name: row.definition for row in found if "alembic_version" not in row.name}


def test_alembic_finds_nothing_to_do(engine: Engine) -> None:
    """Autogenerate would write an empty migration."""
    with engine.begin() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_server_default": True, "compare_type": True}
        )
        assert compare_metadata(context, Base.metadata) == []


@pytest.mark.parametrize("what", DESCRIPTIONS)
def test_migrations_equal_the_tables(engine: Engine, fresh: Engine, what: str) -> None:
    """What alembic does not compare, such as CHECK and WHERE, is the same word for word."""
    Base.metadata.create_all(fresh)
    expected = described(fresh, what)
    assert len(expected) > 10
    assert described(engine, what) == expected


def test_checks_are_compared(fresh: Engine) -> None:
    """The comparison above sees CHECK constraints and the predicates of indexes."""
    Base.metadata.create_all(fresh)
    assert described(fresh, "constraints")["jobs.ck_jobs_claim_id"].startswith("CHECK")
    assert "status = 'queued'" in described(fresh, "indexes")["ix_jobs_turns"]


def test_the_revision(engine: Engine, fresh: Engine) -> None:
    """A migrated database is at the newest revision, and an empty one at none."""
    assert database.revision(engine) == database.newest_revision()
    assert database.revision(fresh) is None


def test_migrating_twice(fresh: Engine) -> None:
    """A second migration changes nothing and keeps what is stored."""
    database.migrate(fresh)
    before = {what: described(fresh, what) for what in DESCRIPTIONS}
    with fresh.begin() as connection:
        tenant_id = tenants.ensure(connection, "kept")
    database.migrate(fresh)
    assert {what: described(fresh, what) for what in DESCRIPTIONS} == before
    with fresh.begin() as connection:
        assert tenants.find(connection, "kept") == tenant_id


def test_migrating_at_the_same_time(fresh: Engine) -> None:
    """Several processes that start on an empty database all find it migrated."""
    together(*[lambda: database.migrate(fresh)] * 3)
    assert database.revision(fresh) == database.newest_revision()
    assert described(fresh, "columns")


def test_a_migration_gives_up_rather_than_hold_up_everybody(
    fresh: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that cannot get its lock is an error; those before it stay, and it can be repeated."""
    monkeypatch.setattr(database, "LOCK_WAIT_S", 0.2)
    database.migrate(fresh, "0002")
    with fresh.begin() as somebody:
        somebody.execute(text("SELECT count(*) FROM campaigns"))
        with pytest.raises(MigrationBusyError, match="0003"):
            database.migrate(fresh)
    assert database.revision(fresh) == "0002"
    database.migrate(fresh)
    assert database.revision(fresh) == database.newest_revision()
