"""What is measured on: servers of its own, fresh databases, and campaigns to fill them with."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from uuid import UUID, uuid4

from sqlalchemy import Engine, text

from jobs.services import Services, open_services
from jobs.settings import Settings, from_environment
from jobs.standalone import Servers
from storage import database, tenants
from storage.ledger import fanout, submit
from storage.ledger.submit import NewCampaign, NewCreative
from storage.tables import Base

POOL = "default"


@dataclass(frozen=True, slots=True)
class Row:
    """A recipient as the ledger takes it."""

    key: str
    line: int
    row: dict[str, str]


def recipients(count: int) -> list[Row]:
    """Recipients with four columns of ordinary length."""
    return [
        Row(
            f"customer-{number:08d}",
            number + 2,
            {
                "id": f"customer-{number:08d}",
                "name": f"Name {number}",
                "city": "Berlin",
                "product": f"mug number {number % 100}",
            },
        )
        for number in range(count)
    ]


def write_csv(path: Path, count: int) -> None:
    """The same recipients as a file."""
    with path.open("w", encoding="utf-8") as file:
        file.write("id,name,city,product\n")
        file.writelines(
            f"customer-{number:08d},Name {number},Berlin,mug number {number % 100}\n"
            for number in range(count)
        )


@dataclass(frozen=True)
class Books:
    """A migrated database with a tenant."""

    settings: Settings
    engine: Engine
    tenant_id: UUID
    environment: Mapping[str, str]
    """For processes of ours that work on it."""

    @property
    def url(self) -> str:
        """For other processes."""
        return self.engine.url.render_as_string(hide_password=False)

    def submit(self, rows: list[Row], *batch_keys: str, fan_out: bool = True) -> UUID:
        """A campaign with a creative per batch key, its jobs made unless somebody else does."""
        creatives = [
            NewCreative(f"creative{number}", "image", POOL, key, {"prompt": "mug"})
            for number, key in enumerate(batch_keys)
        ]
        campaign = NewCampaign(self.tenant_id, "benchmark", creatives)
        campaign_id = submit.submit_campaign(self.engine, campaign, rows)
        if fan_out:
            for _ in fanout.fan_out(self.engine):
                pass
        return campaign_id

    def empty(self) -> None:
        """Take out all that campaigns brought in."""
        kept = {"tenants", "models", "api_keys"}
        names = ", ".join(table for table in Base.metadata.tables if table not in kept)
        self.administer(f"TRUNCATE {names} CASCADE")

    def administer(self, statement: str) -> None:
        """Run a statement outside of any transaction."""
        with self.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(text(statement))

    def log_claims(self) -> None:
        """Have the server write down, by its own clock, when each claim was made."""
        self.administer("CREATE UNLOGGED TABLE claims_made (id uuid, at timestamptz)")
        self.administer(
            """
            CREATE FUNCTION note_claim() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                INSERT INTO claims_made VALUES (NEW.id, clock_timestamp()); RETURN NEW;
            END $$
            """
        )
        self.administer(
            "CREATE TRIGGER note_claim AFTER INSERT ON claims"
            " FOR EACH ROW EXECUTE FUNCTION note_claim()"
        )

    @contextmanager
    def services(self) -> Iterator[Services]:
        """What a door works with."""
        with open_services(self.settings, "benchmark") as services:
            yield services


class Ground:
    """Three servers that live as long as the benchmark, and a database for each part of it."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        self.folder = servers.data
        self.environment = {
            **servers.environment,
            "PRESSWORK_CACHE_DIR": str(servers.data / "cache"),
        }

    @contextmanager
    def books(self, more: Mapping[str, str] = MappingProxyType({})) -> Iterator[Books]:
        """A fresh database. ``more`` are settings beside those of the servers."""
        name = f"part_{uuid4().hex}"
        administrator = from_environment(self.environment).engine("benchmark", pool_size=1)
        outside = administrator.execution_options(isolation_level="AUTOCOMMIT")
        with outside.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name} TEMPLATE template0"))
        url = administrator.url.set(database=name).render_as_string(hide_password=False)
        environment = {**self.environment, **more, "PRESSWORK_DATABASE_URL": url}
        settings = from_environment(environment)
        engine = settings.engine("benchmark", pool_size=8)
        try:
            database.migrate(engine)
            with engine.begin() as connection:
                tenant_id = tenants.ensure(connection, settings.tenant)
            yield Books(settings, engine, tenant_id, environment)
        finally:
            engine.dispose()
            with outside.connect() as connection:
                connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
            administrator.dispose()


@contextmanager
def ground(folder: Path) -> Iterator[Ground]:
    """Start the servers, as `presswork up` would."""
    ours = [name for name in os.environ if name.startswith("PRESSWORK_")]
    if ours:
        raise SystemExit(f"unset {', '.join(ours)}: the benchmark runs on servers of its own")
    with Servers(folder) as servers:
        yield Ground(servers)
