"""What doctor finds, with each service in turn away or wrong."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
import redis
from sqlalchemy import Engine, create_engine, text

from jobs.cli.main import main
from jobs.doctor import Finding, examine
from jobs.services import Services
from jobs.settings import Settings
from jobs.standalone import Servers, ports
from storage import workers
from storage.workers import State

ALL = [
    "database",
    "schema",
    "clock",
    "workers",
    "worker clocks",
    "compiled code",
    "broker",
    "bucket",
]


@pytest.fixture
def closed_port() -> int:
    """A port where nobody listens."""
    return ports.choose(["closed"], {})["closed"]


@pytest.fixture
def worker(engine: Engine) -> None:
    """A worker that was seen just now."""
    workers.seen(engine, name="cpu-0@here", pool="default", device="cpu")


def found(settings: Settings, **changes: object) -> dict[str, Finding]:
    """The findings under changed settings, by name."""
    return {finding.name: finding for finding in examine(settings.model_copy(update=changes))}


def bad(findings: dict[str, Finding]) -> list[str]:
    """What is not well; every such finding says something, and what to do."""
    ill = [finding for finding in findings.values() if not finding.ok]
    assert all(finding.says and finding.advice for finding in ill)
    return [finding.name for finding in ill]


def test_all_is_well(settings: Settings, worker: None, services: Services) -> None:
    """Every service is looked at, and the bucket is left as it was."""
    findings = found(settings)
    assert list(findings) == ALL
    assert bad(findings) == []
    assert findings["database"].says.startswith("PostgreSQL 18.")
    assert findings["workers"].says == "cpu-0@here"
    assert list(services.objects.keys("doctor/")) == []


def test_a_compiler_is_needed_where_models_are_compiled(
    settings: Settings, worker: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a C++ compiler nothing would be compiled, and only the log would say so."""
    assert bad(found(settings, compile="on")) == []
    monkeypatch.setenv("CXX", "no-such-compiler")
    findings = found(settings, compile="on")
    assert bad(findings) == ["compiler"]
    assert "no-such-compiler" in findings["compiler"].says


def test_no_worker(settings: Settings, engine: Engine, worker: None) -> None:
    """A worker that has not been seen for a minute does not count."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE workers SET seen_at = seen_at - interval '61 seconds'"))
    findings = found(settings)
    assert bad(findings) == ["workers"]
    assert "presswork worker" in findings["workers"].advice


@pytest.mark.parametrize(
    ("counter", "says"),
    [("recompile_limit", "the recompile limit was hit"), ("compile_failures", "compiling failed")],
)
def test_a_worker_that_runs_eager(
    settings: Settings, engine: Engine, worker: None, counter: str, says: str
) -> None:
    """Code that should be compiled and is not is named, with the worker that runs it."""
    counted = State(counters={"compiles": 2, "recompiles": 1})
    workers.seen(engine, name="cpu-1@here", pool="default", device="cpu", state=counted)
    assert bad(found(settings)) == []
    counted = State(counters={"compiles": 2, counter: 3})
    workers.seen(engine, name="cpu-1@here", pool="default", device="cpu", state=counted)
    findings = found(settings)
    assert bad(findings) == ["compiled code"]
    assert findings["compiled code"].says == f"cpu-1@here RUNS EAGER: {says} 3 times"
    with engine.begin() as connection:
        connection.execute(text("UPDATE workers SET seen_at = seen_at - interval '61 seconds'"))
    assert bad(found(settings)) == ["workers"]


def test_the_database_is_away(settings: Settings, worker: None, closed_port: int) -> None:
    """What needs the database is not asked; the others are looked at all the same."""
    url = f"postgresql://u:hidden@127.0.0.1:{closed_port}/x"
    findings = found(settings, database_url=url)
    assert list(findings) == ["database", "broker", "bucket"]
    assert bad(findings) == ["database"]
    assert "PRESSWORK_DATABASE_URL" in findings["database"].advice
    assert "hidden" not in repr(findings)


def test_a_wrong_password(settings: Settings, worker: None) -> None:
    """A database that refuses us is said to refuse us."""
    url = settings.database_url.replace("presswork:", "presswork:x")
    assert "password authentication failed" in found(settings, database_url=url)["database"].says


@pytest.fixture
def empty_database(settings: Settings) -> Iterator[str]:
    """The URL of a database that nobody has migrated."""
    admin = create_engine(settings.database_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text("DROP DATABASE IF EXISTS unmigrated"))
        connection.execute(text("CREATE DATABASE unmigrated"))
    yield f"{settings.database_url.rpartition('/')[0]}/unmigrated"
    with admin.connect() as connection:
        connection.execute(text("DROP DATABASE unmigrated"))
    admin.dispose()


def test_a_schema_that_is_not_there(settings: Settings, empty_database: str) -> None:
    """A database without tables is no crash but advice."""
    findings = found(settings, database_url=empty_database)
    assert bad(findings) == ["schema", "workers"]
    assert findings["schema"].advice == "run `presswork migrate`"


def test_the_broker_is_away(settings: Settings, worker: None, closed_port: int) -> None:
    """The broker is named, and that work goes on without it."""
    findings = found(settings, broker_url=f"redis://127.0.0.1:{closed_port}/0")
    assert bad(findings) == ["broker"]
    assert "work goes on" in findings["broker"].advice


def test_a_broker_that_refuses_us(settings: Settings, worker: None) -> None:
    """A wrong password for the broker is found too."""
    url = settings.broker_url.replace("@", "x@")
    assert url != settings.broker_url
    assert bad(found(settings, broker_url=url)) == ["broker"]


def test_a_broker_that_is_full(settings: Settings, worker: None) -> None:
    """A broker that answers but takes nothing is not called well."""
    with redis.from_url(settings.broker_url) as valkey:
        valkey.config_set("maxmemory", 1)
        try:
            findings = found(settings)
        finally:
            valkey.config_set("maxmemory", 0)
    assert bad(findings) == ["broker"]
    assert "maxmemory" in findings["broker"].says
    assert "memory" in findings["broker"].advice


def test_the_bucket_is_away(settings: Settings, worker: None, closed_port: int) -> None:
    """Nobody listens where the store should be."""
    findings = found(settings, s3_endpoint=f"http://127.0.0.1:{closed_port}")
    assert bad(findings) == ["bucket"]
    assert "Could not connect" in findings["bucket"].says


def test_wrong_credentials_for_the_bucket(settings: Settings, worker: None) -> None:
    """A store that refuses our signature is said to do so, without the secret."""
    findings = found(settings, s3_secret_access_key="hidden")
    assert bad(findings) == ["bucket"]
    assert "SignatureDoesNotMatch" in findings["bucket"].says
    assert "hidden" not in repr(findings)


def test_the_command(
    servers: Servers,
    tenant_id: UUID,
    worker: None,
    closed_port: int,
    *,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`presswork doctor` exits with 0 when all is well and with 1 when something is not."""
    for name in list(os.environ):
        if name.startswith(("PRESSWORK_", "AWS_")):
            monkeypatch.delenv(name)
    for name, value in servers.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PRESSWORK_DATA", str(tmp_path))

    def doctor(*options: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["presswork", "doctor", *options])
        with pytest.raises(SystemExit) as caught:
            main()
        return (caught.value.code, *capsys.readouterr())

    code, out, err = doctor("--json")
    assert (code, err) == (0, "")
    assert [(finding["name"], finding["ok"]) for finding in json.loads(out)] == [
        (name, True) for name in ALL
    ]
    monkeypatch.setenv("PRESSWORK_S3_ENDPOINT", f"http://127.0.0.1:{closed_port}")
    code, out, _ = doctor("--json")
    assert (code, [finding["name"] for finding in json.loads(out) if not finding["ok"]]) == (
        1,
        ["bucket"],
    )
    code, out, _ = doctor()
    assert (code, out.count("\nok "), out.count("BAD bucket: ")) == (1, 6, 1)
    assert "    -> start the object store" in out
