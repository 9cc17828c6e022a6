"""Objects arrive whole or not at all, whatever the way to the store does to them."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from uuid import uuid4

import pytest
from sqlalchemy import Engine

from jobs.maintenance.orphans import collect_orphans
from jobs.services import Services
from storage import objects, orphans
from storage.objects import ObjectMissingError, ObjectStore, ObjectStoreError, claim_prefix
from tests.s3_proxy import S3Proxy

SMALL = os.urandom(40_000)
LARGE = os.urandom(12 * 1024 * 1024)
"""In three parts, with the sizes below."""

MANY = 50
"""More than are tried."""


@pytest.fixture
def proxy(services: Services, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Proxy]:
    """The way to the store; objects go up in parts from 8 MiB on, of 5 MiB each."""
    monkeypatch.setattr(objects, "MULTIPART_FROM_BYTES", 8 * objects.MIB)
    monkeypatch.setattr(objects, "PART_BYTES", 5 * objects.MIB)
    assert services.objects.endpoint
    with S3Proxy(services.objects.endpoint) as running:
        yield running


@pytest.fixture
def store(services: Services, proxy: S3Proxy) -> ObjectStore:
    """The store, by that way."""
    return replace(services.objects, endpoint=proxy.endpoint, tries=2)


def new_key() -> str:
    """A key of its own."""
    return f"{claim_prefix(uuid4())}object"


Order = Callable[[S3Proxy], None]

PASSING: dict[str, Order] = {
    "503 once": lambda proxy: proxy.refuse_puts(1),
    "slow": lambda proxy: proxy.delay_answers(0.2),
    "cut once": lambda proxy: proxy.cut_puts(1),
    "stored, not said": lambda proxy: proxy.cut_answers(1),
}
LASTING: dict[str, Order] = {
    "503": lambda proxy: proxy.refuse_puts(MANY),
    "cut": lambda proxy: proxy.cut_puts(MANY),
}


def test_a_large_object_goes_up_in_parts(
    store: ObjectStore, proxy: S3Proxy, services: Services
) -> None:
    """Three parts, then one object; a small one goes up as it is."""
    key = new_key()
    store.put(key, LARGE, "image/png")
    assert services.objects.get(key) == LARGE
    assert sum("partNumber=" in request for request in proxy.seen) == 3
    store.put(key, SMALL, "image/png")
    assert services.objects.get(key) == SMALL
    assert sum("partNumber=" in request for request in proxy.seen) == 3


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("order", PASSING.values(), ids=PASSING)
def test_a_fault_that_passes(
    store: ObjectStore, proxy: S3Proxy, services: Services, order: Order, body: bytes
) -> None:
    """One refusal, one cut, slowness: the object is stored, the same byte for byte."""
    key = new_key()
    order(proxy)
    store.put(key, body, "image/png")
    assert services.objects.get(key) == body


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("order", LASTING.values(), ids=LASTING)
def test_a_fault_that_stays(
    store: ObjectStore, proxy: S3Proxy, services: Services, order: Order, body: bytes
) -> None:
    """Then it is an error, no half of an object is there, and no parts are left."""
    key = new_key()
    order(proxy)
    with pytest.raises(ObjectStoreError):
        store.put(key, body, "image/png")
    with pytest.raises(ObjectMissingError):
        services.objects.get(key)
    assert services.objects.abort_uploads(key) == 0
    proxy.behave()
    store.put(key, body, "image/png")
    assert services.objects.get(key) == body


def test_answers_that_never_come(store: ObjectStore, proxy: S3Proxy, services: Services) -> None:
    """An object may be stored although its PUT failed; it is whole then."""
    key = new_key()
    proxy.cut_answers(MANY)
    with pytest.raises(ObjectStoreError):
        store.put(key, SMALL, "image/png")
    assert services.objects.get(key) == SMALL


def test_a_lost_part(store: ObjectStore, proxy: S3Proxy, services: Services) -> None:
    """A part that the store took and does not have is an error, and trying again mends it."""
    key = new_key()
    proxy.lose_parts(1)
    with pytest.raises(ObjectStoreError, match="InvalidPart"):
        store.put(key, LARGE, "image/png")
    with pytest.raises(ObjectMissingError):
        services.objects.get(key)
    assert services.objects.abort_uploads(key) == 0
    store.put(key, LARGE, "image/png")
    assert services.objects.get(key) == LARGE


def test_a_lost_part_of_which_the_store_says_nothing(store: ObjectStore, proxy: S3Proxy) -> None:
    """An object that came out smaller than what was sent is an error."""
    key = new_key()
    proxy.shrink_objects(1)
    with pytest.raises(ObjectStoreError, match=f"of {len(LARGE)} bytes: a part was lost"):
        store.put(key, LARGE, "image/png")


def test_parts_that_could_not_be_given_up(
    store: ObjectStore, proxy: S3Proxy, services: Services, engine: Engine
) -> None:
    """What even the abort of a failed upload has left goes with the claim's orphans."""
    claim_id = uuid4()
    key = f"{claim_prefix(claim_id)}object"
    proxy.lose_parts(1)
    proxy.refuse_deletes(MANY)
    with pytest.raises(ObjectStoreError):
        store.put(key, LARGE, "image/png")
    other = f"{claim_prefix(uuid4())}object"
    proxy.lose_parts(1)
    with pytest.raises(ObjectStoreError):
        store.put(other, LARGE, "image/png")
    with engine.begin() as connection:
        orphans.note(connection, claim_id)
    collect_orphans(engine, services.objects)
    assert services.objects.abort_uploads(claim_prefix(claim_id)) == 0, "they are gone"
    assert services.objects.abort_uploads(other) == 1, "another claim's are not"


def test_deleting(store: ObjectStore, services: Services) -> None:
    """What is there goes, and what is not is no error."""
    key = new_key()
    store.put(key, SMALL, "image/png")
    store.delete([key, f"{key}-that-is-not-there"])
    with pytest.raises(ObjectMissingError):
        services.objects.get(key)


def test_other_sizes_than_expected(
    store: ObjectStore, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the threshold, one byte beside it, and at a whole number of parts: the same bytes."""
    key = new_key()
    for size in (8 * objects.MIB - 1, 8 * objects.MIB, 10 * objects.MIB):
        store.put(key, LARGE[:size], "image/png")
        assert services.objects.get(key) == LARGE[:size]
