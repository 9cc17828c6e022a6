"""The bucket as files are read from it and put into it."""

import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from uuid import UUID

import pytest

from jobs import files
from jobs.services import Services
from storage.objects import READ_BYTES, ObjectMissingError, ObjectStore, ObjectStoreError


def test_an_object_is_read_as_it_is_needed(services: Services) -> None:
    """A large object comes piece by piece and whole, and its tag follows its content."""
    body = bytes(range(256)) * (2 * READ_BYTES // 256 + 3)
    services.objects.put("large", body, "text/csv")
    with services.objects.open("large") as opened:
        assert opened.stream.readline() == body[:11]
        assert opened.stream.read() == body[11:]
        assert opened.stream.read() == b""
        first = opened.etag
    services.objects.put("large", body[1:], "text/csv")
    with services.objects.open("large") as opened:
        assert opened.etag != first


def test_an_object_that_is_not_there(services: Services) -> None:
    """It is told apart from a bucket that does not answer."""
    with pytest.raises(ObjectMissingError, match="no-such"), services.objects.open("no-such"):
        pass


class CutOff(BaseHTTPRequestHandler):
    """Promises a hundred bytes and hangs up after ten."""

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.send_header("ETag", '"x"')
        self.end_headers()
        self.wfile.write(b"id,product")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def cut_off() -> Iterator[ObjectStore]:
    """A bucket that hangs up in the middle of every object."""
    with HTTPServer(("127.0.0.1", 0), CutOff) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield ObjectStore(f"http://127.0.0.1:{server.server_port}", "b", "key", "secret")
        server.shutdown()
        thread.join()


def test_an_object_that_is_cut_off(cut_off: ObjectStore) -> None:
    """Half an object is an error of the bucket's, never the end of a file."""
    with cut_off.open("half") as opened, pytest.raises(ObjectStoreError):
        opened.stream.read()


def test_a_link_to_upload_to(services: Services, tenant_id: UUID) -> None:
    """Whoever has the link puts the file there without credentials, as curl would."""
    link = files.upload_link(services, tenant_id, "lists/spring.csv")
    request = urllib.request.Request(link, data=b"id\n1\n", method="PUT")  # noqa: S310 (our own)
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        assert answer.status == 200
    with files.opened(services, tenant_id, "lists/spring.csv") as found:
        assert (found.name, found.stream.read()) == ("lists/spring.csv", b"id\n1\n")
