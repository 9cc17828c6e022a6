"""The embedded servers, for real: every test starts some of them in a directory of its own."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from jobs.processes import wait_gone
from jobs.stackfile import AlreadyRunningError
from jobs.standalone import PortInUseError, Servers, ServerStartError, ports
from storage.objects import ObjectStore

ALL = frozenset({"postgres", "valkey", "s3"})
ONLY_VALKEY = ALL - {"valkey"}
STOP_LIMIT_S = 5.0

OWNER = """
import signal, sys
from pathlib import Path
from jobs.standalone import Servers
with Servers(Path(sys.argv[1]), skip=frozenset(sys.argv[2:])) as servers:
    print(*(child.pid for child in servers.supervisor.children), flush=True)
    signal.pause()
"""


def database(environment: Mapping[str, str]) -> str:
    """The URL as psycopg itself takes it."""
    return environment["PRESSWORK_DATABASE_URL"].replace("+psycopg", "")


def object_store(environment: Mapping[str, str]) -> ObjectStore:
    """The store that the settings lead to."""
    return ObjectStore(
        environment["PRESSWORK_S3_ENDPOINT"],
        environment["PRESSWORK_S3_BUCKET"],
        access_key_id=environment["PRESSWORK_S3_ACCESS_KEY_ID"],
        secret_access_key=environment["PRESSWORK_S3_SECRET_ACCESS_KEY"],
    )


def processes(servers: Servers) -> list[psutil.Process]:
    """The servers' processes, the first one started first."""
    return [psutil.Process(child.pid) for child in servers.supervisor.children]


@contextmanager
def owner(
    data: Path, *skip: str, path: str | None = None
) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """Another process that owns servers, and their processes, once they answer."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(data), *skip],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "PATH": os.environ["PATH"] if path is None else path,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stdout
        yield process, [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
        process.kill()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """All three, under a directory that is closed to other users."""
    closed = tmp_path_factory.mktemp("closed")
    closed.chmod(0o700)
    with Servers(closed / "data") as running:
        yield running


def test_postgresql_answers(servers: Servers) -> None:
    """The database exists, and the server has what Presswork builds on."""
    with psycopg.connect(database(servers.environment)) as connection:
        row = connection.execute(
            "SELECT current_database(), pg_encoding_to_char(encoding), uuidv7() IS NOT NULL"
            " FROM pg_database WHERE datname = current_database()"
        ).fetchone()
    assert row == ("presswork", "UTF8", True)


def test_valkey_answers(servers: Servers) -> None:
    """The broker takes and gives a message."""
    with redis.Redis.from_url(servers.environment["PRESSWORK_BROKER_URL"]) as client:
        client.lpush("queue", "message")
        assert client.rpop("queue") == b"message"


def test_the_s3_server_answers(servers: Servers) -> None:
    """The bucket exists, is empty, and takes and gives an object."""
    store = object_store(servers.environment)
    assert list(store.keys("")) == []
    store.put("key", b"body", "text/plain")
    assert store.get("key") == b"body"
    store.delete(["key"])


def test_nobody_gets_in_without_the_password(servers: Servers) -> None:
    """A loopback port is open to every user of the machine."""
    url = database(servers.environment).replace("presswork:", "presswork:x")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url)
    with (
        redis.Redis(port=servers.ports["valkey"], retry=Retry(NoBackoff(), 0)) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


def test_secrets_are_neither_readable_nor_on_command_lines(servers: Servers) -> None:
    """Files with credentials have mode 0600, and ps tells nothing."""
    for name in ("credentials.json", "valkey.conf", "s3.json", "children.json"):
        assert stat.S_IMODE((servers.data / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(servers.data.stat().st_mode) == 0o700
    password = servers.environment["PRESSWORK_BROKER_URL"].split(":")[2].split("@")[0]
    secrets = {password, servers.environment["PRESSWORK_S3_SECRET_ACCESS_KEY"]}
    lines = [" ".join(process.cmdline()) for process in processes(servers)]
    assert not [line for line in lines for secret in secrets if secret in line]


def test_directories_above_keep_their_mode(servers: Servers) -> None:
    """PostgreSQL runs as somebody else, and still no door is opened for it."""
    assert stat.S_IMODE(servers.data.parent.stat().st_mode) == 0o700
    if os.geteuid() == 0:
        assert all(p.uids().effective != 0 for p in processes(servers) if p.name() == "postgres")


def test_a_data_directory_has_one_owner(servers: Servers) -> None:
    """A second owner is refused and does no harm."""
    with pytest.raises(AlreadyRunningError), Servers(servers.data):
        pass
    assert all(child.exit_code is None for child in servers.supervisor.children)


def test_data_survives_a_stop_which_is_quick(tmp_path: Path) -> None:
    """After stop and start the same credentials lead to the same data."""
    with Servers(tmp_path) as first:
        with psycopg.connect(database(first.environment)) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        with redis.Redis.from_url(first.environment["PRESSWORK_BROKER_URL"]) as client:
            client.lpush("queue", "kept")
        object_store(first.environment).put("kept", b"42", "text/plain")
        running = processes(first)
        started_s = time.monotonic()
    assert time.monotonic() - started_s < STOP_LIMIT_S
    assert not any(process.is_running() for process in running)

    with Servers(tmp_path) as second:
        assert [
            second.environment[name] == first.environment[name]
            for name in ("PRESSWORK_S3_ACCESS_KEY_ID", "PRESSWORK_S3_SECRET_ACCESS_KEY")
        ] == [True, True]
        with psycopg.connect(database(second.environment)) as connection:
            assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
        with redis.Redis.from_url(second.environment["PRESSWORK_BROKER_URL"]) as client:
            assert client.rpop("queue") == b"kept"
        assert object_store(second.environment).get("kept") == b"42"


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_killed_owner_leaves_no_server_behind(tmp_path: Path) -> None:
    """The servers go down with an owner that is killed with -9, and come up again."""
    with owner(tmp_path) as (process, running):
        assert len(running) == 3
        process.kill()
        assert all(wait_gone(server, STOP_LIMIT_S) for server in running)
    with Servers(tmp_path) as servers, psycopg.connect(database(servers.environment)):
        pass


def test_the_next_owner_ends_what_a_killed_one_left(tmp_path: Path) -> None:
    """Where the kernel does not end the servers, the next start does."""
    # Without setpriv nothing tells the kernel to; PostgreSQL needs setpriv to run as root.
    with owner(tmp_path, "postgres", path="") as (process, running):
        process.kill()
        process.wait(5)
        assert all(server.is_running() for server in running)
    with Servers(tmp_path, skip=ALL):
        assert all(wait_gone(server, 0) for server in running)


def test_ctrl_c_stops_the_servers_in_order(tmp_path: Path) -> None:
    """Ctrl-C reaches the owner alone, which lets PostgreSQL shut down properly."""
    with owner(tmp_path) as (process, running):
        started_s = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        process.wait(STOP_LIMIT_S)
        assert time.monotonic() - started_s < STOP_LIMIT_S
        assert not any(server.is_running() for server in running)
    log = (tmp_path / "logs" / "postgres.log").read_text()
    assert log.count("received fast shutdown request") == 1
    assert log.rstrip().endswith("database system is shut down")


def test_a_crashed_server_comes_back_on_its_port(tmp_path: Path) -> None:
    """Whoever polls the supervisor gets the server back under the same URL."""
    with Servers(tmp_path, skip=ONLY_VALKEY) as servers:
        child = servers.supervisor.children[0]
        crashed = child.pid
        os.kill(crashed, signal.SIGKILL)
        child.wait(5)
        deadline = time.monotonic() + 10
        with redis.Redis.from_url(servers.environment["PRESSWORK_BROKER_URL"]) as client:
            while True:
                servers.supervisor.poll()
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    assert time.monotonic() < deadline
        assert child.pid != crashed


def test_a_port_can_be_given(tmp_path: Path) -> None:
    """A server listens where it was told to, and an occupied port is an error that names it."""
    given = ports.choose(["valkey"], {})
    with Servers(tmp_path / "one", ports=given, skip=ONLY_VALKEY) as servers:
        assert servers.ports == given
        with (
            pytest.raises(PortInUseError, match=f"port {given['valkey']} for valkey"),
            Servers(tmp_path / "two", ports=given, skip=ONLY_VALKEY),
        ):
            pass


def test_a_port_that_was_taken_meanwhile_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may take a port between our choice and the server's start: try another."""
    choose = ports.choose
    with Servers(tmp_path / "one", skip=ONLY_VALKEY) as one:
        chosen = [dict(one.ports)]
        monkeypatch.setattr(
            ports,
            "choose",
            lambda names, given: chosen.pop() if chosen else choose(names, given),
        )
        with Servers(tmp_path / "two", skip=ONLY_VALKEY) as two:
            assert two.ports != one.ports
            assert not chosen


def test_the_error_shows_why_a_server_did_not_start(tmp_path: Path) -> None:
    """The message has the log's last lines and its path."""
    (tmp_path / "valkey").mkdir()
    (tmp_path / "valkey" / "appendonlydir").write_text("not a directory")
    with (
        pytest.raises(ServerStartError, match="append-only") as caught,
        Servers(tmp_path, skip=ONLY_VALKEY),
    ):
        pass
    assert str(tmp_path / "logs" / "valkey.log") in str(caught.value)


def test_a_misspelt_server_is_refused(tmp_path: Path) -> None:
    """A name that does not exist would start the server that was to be skipped."""
    with pytest.raises(ValueError, match="no such server: seaweed"):
        Servers(tmp_path, skip=frozenset({"seaweed"}))
