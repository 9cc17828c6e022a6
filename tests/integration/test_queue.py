"""Wake-ups go out, or are done without, whatever the broker does."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from uuid import uuid4

import pytest
import redis
from sqlalchemy import Engine, make_url

from jobs.queue import PAUSE_S, PUBLISH_TIMEOUT_S, WakeUps
from jobs.settings import Settings
from jobs.standalone import Servers
from tests.integration.doors import IMAGE_JOB, new_key, served
from tests.tcp_proxy import TcpProxy
from tests.waiting import until

HANGS_S = PUBLISH_TIMEOUT_S + 1
"""How long a question to a broker that hangs may take, on a busy machine."""

Fault = Callable[[redis.Redis], AbstractContextManager[None]]


@pytest.fixture
def proxy(servers: Servers) -> Iterator[TcpProxy]:
    """A way to Valkey that can be made to misbehave."""
    with TcpProxy("127.0.0.1", servers.ports["valkey"]) as proxy:
        yield proxy


@pytest.fixture
def through(proxy: TcpProxy, settings: Settings) -> str:
    """The broker's URL by way of the proxy."""
    url = make_url(settings.broker_url).set(port=proxy.port)
    return url.render_as_string(hide_password=False)


@pytest.fixture
def wake_ups(through: str) -> Iterator[WakeUps]:
    """Wake-ups by way of the proxy."""
    wake_ups = WakeUps(through)
    yield wake_ups
    wake_ups.close()


@pytest.fixture
def pool() -> str:
    """A pool that nobody serves."""
    return f"pool-{uuid4()}"


@contextmanager
def full(valkey: redis.Redis) -> Iterator[None]:
    """A broker without memory left."""
    valkey.config_set("maxmemory", 1)
    try:
        yield
    finally:
        valkey.config_set("maxmemory", 0)


@contextmanager
def read_only(valkey: redis.Redis) -> Iterator[None]:
    """A broker that became a replica, of a server that is away."""
    valkey.replicaof("127.0.0.1", "1")
    try:
        yield
    finally:
        valkey.replicaof("NO", "ONE")


@contextmanager
def locked(valkey: redis.Redis) -> Iterator[None]:
    """A broker whose password has been changed, and that forgot who we were."""
    password = str(valkey.config_get("requirepass")["requirepass"])
    valkey.config_set("requirepass", "another")
    valkey.client_kill_filter(_type="normal", skipme=True)
    try:
        yield
    finally:
        valkey.config_set("requirepass", password)


@pytest.fixture
def valkey(settings: Settings) -> Iterator[redis.Redis]:
    """Valkey's own settings."""
    with redis.from_url(settings.broker_url, decode_responses=True) as valkey:
        yield valkey


def seconds(work: Callable[[], object]) -> float:
    """How long ``work`` takes."""
    started = time.monotonic()
    work()
    return time.monotonic() - started


def sends_again(wake_ups: WakeUps, pool: str) -> None:
    """After a failure the broker is left alone for a moment, and then asked again."""
    until(lambda: wake_ups.send(pool), timeout_s=PAUSE_S + 5, what="the next wake-up")


def test_wake_ups_are_counted(wake_ups: WakeUps, pool: str) -> None:
    """What was sent is waiting."""
    assert wake_ups.waiting(pool) == 0
    assert wake_ups.send(pool, 3)
    assert wake_ups.waiting(pool) == 3
    assert wake_ups.trouble() is None
    assert wake_ups.waiting(pool) == 3


def test_connections_are_kept(wake_ups: WakeUps, pool: str, proxy: TcpProxy) -> None:
    """A wake-up does not cost a new connection, nor a question whether the queue is there."""
    wake_ups.send(pool)
    opened = proxy.opened
    for _ in range(20):
        assert wake_ups.send(pool)
    assert wake_ups.waiting(pool) == 21
    assert proxy.opened == opened
    wake_ups.disconnect()
    until(lambda: proxy.connections == 0)
    assert wake_ups.send(pool)


def test_a_connection_that_was_reset(wake_ups: WakeUps, pool: str, proxy: TcpProxy) -> None:
    """The next wake-up after a reset goes out at once, by a new connection."""
    wake_ups.send(pool)
    proxy.cut()
    assert wake_ups.send(pool)
    assert wake_ups.waiting(pool) == 2


@pytest.mark.parametrize(
    ("fault", "words"),
    [(full, "maxmemory"), (read_only, "read only"), (locked, "invalid username-password")],
)
def test_a_broker_that_refuses(
    wake_ups: WakeUps, pool: str, valkey: redis.Redis, fault: Fault, words: str
) -> None:
    """Nothing escapes, the reason is known, and afterwards all is well."""
    assert wake_ups.send(pool)
    with fault(valkey):
        assert not wake_ups.send(pool)
        wake_ups.waiting(pool)
        until(lambda: words in str(wake_ups.trouble()), timeout_s=PAUSE_S + 5)
    sends_again(wake_ups, pool)
    assert wake_ups.waiting(pool) == 2


def test_a_broker_that_hangs(wake_ups: WakeUps, pool: str, proxy: TcpProxy) -> None:
    """The one that finds out waits for a moment, those that come next do not."""
    assert wake_ups.send(pool)
    proxy.pause(new=True)
    assert seconds(lambda: wake_ups.send(pool)) < HANGS_S
    assert seconds(lambda: wake_ups.send(pool)) < PAUSE_S / 2
    assert wake_ups.waiting(pool) is None
    proxy.resume()
    sends_again(wake_ups, pool)


def test_jobs_are_taken_whatever_the_broker_does(
    settings: Settings, engine: Engine, tenant_id: object, through: str, proxy: TcpProxy
) -> None:
    """POST /v1/jobs answers 202 while the broker is full, hangs, and is away."""
    key = new_key(engine)
    changed = settings.model_copy(update={"broker_url": through})

    def submit() -> None:
        assert client.post("/v1/jobs", json=dict(IMAGE_JOB)).status_code == 202

    with served(changed, key) as client:
        submit()
        with redis.from_url(settings.broker_url) as valkey, full(valkey):
            submit()
    with served(changed, key) as client:
        proxy.pause(new=True)
        assert seconds(submit) < HANGS_S
        assert seconds(submit) < PAUSE_S
    with served(changed, key) as client:
        proxy.refuse()
        assert seconds(submit) < PAUSE_S
