import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import make_url

from jobs.standalone import Servers
from tests.tcp_proxy import TcpProxy

SILENCE_S = 0.2


@pytest.fixture
def proxy(servers: Servers) -> Iterator[TcpProxy]:
    """A way to Valkey."""
    with TcpProxy("127.0.0.1", servers.ports["valkey"]) as proxy:
        yield proxy


@contextmanager
def connected(proxy: TcpProxy, servers: Servers) -> Iterator[Any]:
    """A connection to Valkey that comes through the proxy, and does nothing a second time."""
    untyped: Any = redis.Connection
    connection = untyped(
        host="127.0.0.1",
        port=proxy.port,
        password=make_url(servers.environment["PRESSWORK_BROKER_URL"]).password,
        socket_timeout=5,
        retry=Retry(NoBackoff(), 0),
    )
    connection.connect()
    try:
        yield connection
    finally:
        connection.disconnect()


def ask(connection: Any, *command: str) -> Any:
    """What Valkey answers."""
    connection.send_command(*command)
    return connection.read_response()


def test_passes_everything_on(proxy: TcpProxy, servers: Servers) -> None:
    """What is larger than any buffer arrives whole, both ways, and so does the end."""
    with connected(proxy, servers) as connection:
        large = "x" * 10_000_000
        assert ask(connection, "ECHO", large) == large.encode()
        assert proxy.connections == 1
        assert ask(connection, "QUIT") == b"OK"
        with pytest.raises(redis.ConnectionError, match="closed by server"):
            connection.read_response()
        assert proxy.connections == 0


def test_pause_holds_what_exists(proxy: TcpProxy, servers: Servers) -> None:
    """A held connection is silent and open, a new one passes; afterwards the answer comes."""
    with connected(proxy, servers) as held:
        proxy.pause()
        held.send_command("PING")
        assert not held.can_read(timeout=SILENCE_S)
        with connected(proxy, servers) as new:
            assert ask(new, "PING") == b"PONG"
        proxy.resume()
        assert held.read_response() == b"PONG"


def test_pause_of_new_connections(proxy: TcpProxy, servers: Servers) -> None:
    """With `new` a connection is taken and held as well."""
    proxy.pause(new=True)
    with socket.create_connection(("127.0.0.1", proxy.port), 5) as held:
        held.sendall(b"PING\r\n")
        held.settimeout(SILENCE_S)
        with pytest.raises(TimeoutError):
            held.recv(100)
        proxy.resume()
        held.settimeout(5)
        assert held.recv(100).startswith(b"-NOAUTH")


def test_cut_and_refuse(proxy: TcpProxy, servers: Servers) -> None:
    """A cut is a reset; refusal leaves what exists alone, and lasts until accepted again."""
    with connected(proxy, servers) as connection:
        proxy.refuse()
        assert ask(connection, "PING") == b"PONG"
        with pytest.raises(redis.ConnectionError, match="refused"), connected(proxy, servers):
            pass
        proxy.cut()
        assert proxy.connections == 0
        with pytest.raises(redis.ConnectionError, match="reset"):
            ask(connection, "PING")
    proxy.accept()
    with connected(proxy, servers) as connection:
        assert ask(connection, "PING") == b"PONG"


@pytest.mark.parametrize("forward", [False, True])
def test_cut_at(engine: object, servers: Servers, forward: bool) -> None:  # noqa: FBT001
    """A COMMIT is cut before the server sees it, or after it was obeyed and before the answer."""
    url = make_url(servers.environment["PRESSWORK_DATABASE_URL"])
    with TcpProxy("127.0.0.1", servers.ports["postgres"]) as proxy:
        through = url.set(drivername="postgresql", host="127.0.0.1", port=proxy.port)
        database = through.render_as_string(hide_password=False)
        happened = proxy.cut_at(b"COMMIT", forward=forward)
        connection = psycopg.connect(database)
        connection.execute("INSERT INTO tenants (id, name) VALUES (uuidv7(), 'cut')")
        assert not happened.is_set()
        with pytest.raises(psycopg.OperationalError):
            connection.commit()
        assert happened.wait(5)
        with psycopg.connect(database) as connection:  # whose COMMIT passes
            found = connection.execute("SELECT count(*) FROM tenants WHERE name = 'cut'").fetchone()
    assert found == (int(forward),)
