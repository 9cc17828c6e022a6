"""The real parts that tests run against: started once per session, emptied before each test."""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import Engine, text

from jobs.queue import WakeUps
from jobs.services import Services
from jobs.settings import Settings, from_environment
from jobs.standalone import Servers
from storage import database, tenants
from storage.tables import Base


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """PostgreSQL, Valkey and S3, as `presswork up` starts them."""
    with Servers(tmp_path_factory.mktemp("servers")) as running:
        yield running


@pytest.fixture(scope="session")
def migrated(servers: Servers) -> Iterator[Engine]:
    """An engine on the migrated database."""
    engine = from_environment(servers.environment).engine("presswork tests", pool_size=16)
    database.migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def engine(migrated: Engine) -> Engine:
    """The database, all tables empty."""
    tables = ", ".join(table.name for table in Base.metadata.sorted_tables)
    with migrated.begin() as connection:
        connection.execute(text(f"TRUNCATE {tables}"))
    return migrated


@pytest.fixture
def settings(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings that lead to the servers; leases are short, models are built once a session."""
    return from_environment(
        {
            **servers.environment,
            "PRESSWORK_CACHE_DIR": str(tmp_path_factory.getbasetemp() / "cache"),
            "PRESSWORK_LEASE_S": "3",
            "PRESSWORK_IDLE_LOOK_S": "1",
            "PRESSWORK_SWEEP_S": "0.2",
        }
    )


@pytest.fixture
def services(settings: Settings, engine: Engine) -> Iterator[Services]:
    """What a door works with."""
    wake_ups = WakeUps(settings.broker_url)
    yield Services(settings, engine, settings.objects(), wake_ups)
    wake_ups.close()


@pytest.fixture
def tenant_id(engine: Engine) -> UUID:
    """The default tenant."""
    with engine.begin() as connection:
        return tenants.ensure(connection, "default")


@pytest.fixture
def campaign_folder(tmp_path: Path) -> Path:
    """A campaign of three recipients, as files."""
    (tmp_path / "recipients.csv").write_text(
        "id,product,colour\n1,mug,blue\n2,cup,red\n3,pot,green\n", encoding="utf-8"
    )
    (tmp_path / "campaign.yaml").write_text(
        "name: Test\n"
        "recipients: {file: recipients.csv, id: id}\n"
        "creatives:\n"
        "  - name: hero\n"
        "    prompt: '{{ product }} on {{ colour }}'\n"
        "    size: 64x64\n"
        "    steps: 2\n",
        encoding="utf-8",
    )
    return tmp_path
