"""Outputs are stored with patience, which ends for a batch as a whole, and without many words."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from jobs.services import Services
from storage.objects import ObjectStoreError, sha256_hex
from tests.s3_proxy import S3Proxy
from workers import writer
from workers.family import Output
from workers.writer import Writer

MANY = 1000


@pytest.fixture
def proxy(services: Services) -> Iterator[S3Proxy]:
    """A way to the bucket that misbehaves on order."""
    assert services.objects.endpoint
    with S3Proxy(services.objects.endpoint) as running:
        yield running


@pytest.fixture
def make_writer(services: Services, proxy: S3Proxy) -> Iterator[Callable[..., Writer]]:
    """Writers to the bucket by way of the proxy, closed at the end."""
    writers: list[Writer] = []

    def make(stopping: Callable[[], bool] = bool) -> Writer:
        objects = replace(services.objects, endpoint=proxy.endpoint)
        writers.append(Writer(objects, {"worker": "w"}, stopping))
        return writers[-1]

    yield make
    for made in writers:
        made.close()


def output(number: int) -> Output:
    """Something to store."""
    return Output(bytes([number]) * 100, "image/png", {"seed": number})


def failures(to: Writer, claim_id: UUID, jobs: int) -> list[str]:
    """Store an output for so many jobs, and give what was said about those that were not stored."""
    uploads = [to.store(claim_id, uuid4(), [output(number)], {}) for number in range(jobs)]
    said = []
    for upload in uploads:
        try:
            to.result(upload)
        except ObjectStoreError as error:
            said.append(str(error))
    return said


def test_what_is_stored(services: Services, make_writer: Callable[..., Writer]) -> None:
    """Each output of a job has its own object, and facts about who made it."""
    to = make_writer()
    stored = to.result(to.store(uuid4(), uuid4(), [output(1), output(2)], {}))
    assert [artifact.facts for artifact in stored] == [
        {"seed": 1, "worker": "w"},
        {"seed": 2, "worker": "w"},
    ]
    for artifact in stored:
        body = services.objects.get(artifact.object_key)
        assert (sha256_hex(body), len(body)) == (artifact.sha256, artifact.size_bytes)


def test_patience_ends_for_the_whole_batch(
    make_writer: Callable[..., Writer],
    proxy: S3Proxy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Many outputs are not waited for one after another, and the log says once what is wrong."""
    monkeypatch.setattr(writer, "PATIENCE_S", 1)
    caplog.set_level("INFO", "workers.writer")
    to, claim_id = make_writer(), uuid4()
    proxy.refuse_puts(MANY)
    assert len(failures(to, claim_id, 3 * writer.UPLOADS)) == 3 * writer.UPLOADS
    assert len(set(proxy.seen)) == writer.UPLOADS, "what was not begun by then is not tried"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert len(proxy.seen) > writer.UPLOADS * writer.TRIES, "it was tried again"

    proxy.behave()
    assert failures(to, uuid4(), 2) == [], "the next batch is tried"
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_patience_ends_for_each_of_several_batches(
    make_writer: Callable[..., Writer], proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose outputs come in between does not have another one waited for anew."""
    monkeypatch.setattr(writer, "PATIENCE_S", 1)
    to, claims = make_writer(), (uuid4(), uuid4())
    proxy.refuse_puts(MANY)
    uploads = [
        to.store(claims[number % 2], uuid4(), [output(number)], {})
        for number in range(6 * writer.UPLOADS)
    ]
    for upload in uploads:
        with pytest.raises(ObjectStoreError):
            to.result(upload)
    assert len(set(proxy.seen)) <= 2 * writer.UPLOADS


def test_a_stop_ends_the_waiting(
    make_writer: Callable[..., Writer], proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it is time to stop, all uploads together have a moment, and closing waits for none."""
    monkeypatch.setattr(writer, "STOP_S", 0.3)
    stop = threading.Event()
    to = make_writer(stop.is_set)
    proxy.delay_answers(60)
    uploads = [to.store(uuid4(), uuid4(), [output(number)], {}) for number in range(40)]
    stop.set()
    began_s = time.monotonic()
    for upload in uploads:
        with pytest.raises(ObjectStoreError, match="before the stop"):
            to.result(upload)
    to.close()
    assert time.monotonic() - began_s < 5, "they share one moment"


def test_a_stop_keeps_what_is_stored(make_writer: Callable[..., Writer]) -> None:
    """What gets there within the moment counts."""
    to = make_writer(lambda: True)
    assert failures(to, uuid4(), 4) == []


def test_a_stop_ends_the_trying(make_writer: Callable[..., Writer], proxy: S3Proxy) -> None:
    """An upload that fails when it is time to stop is not tried again."""
    to = make_writer(lambda: True)
    proxy.refuse_puts(MANY)
    assert "ServiceUnavailable" in failures(to, uuid4(), 1)[0]
    assert len(proxy.seen) == writer.TRIES
