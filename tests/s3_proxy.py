"""A proxy in front of the real S3 server that misbehaves on order."""

import hashlib
import http.client
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect"}
UNAVAILABLE = b"<Error><Code>ServiceUnavailable</Code><Message>as ordered</Message></Error>"


@dataclass(frozen=True)
class Request:
    """What a client sent: ``path`` with its query, ``body`` as it came, chunks and all."""

    method: str
    path: str
    headers: Message
    body: bytes

    @property
    def is_put(self) -> bool:
        """It brings an object, or a part of one."""
        return self.method == "PUT" and bool(self.body)

    @property
    def is_part(self) -> bool:
        """It brings a part of an upload in parts."""
        return self.is_put and "partNumber=" in self.path


ORDERS: Mapping[str, Callable[[Request], bool]] = {
    "refuse": lambda request: request.is_put,
    "cut": lambda request: request.is_put,
    "lose": lambda request: request.is_part,
    "cut answer": lambda request: request.is_put,
    "refuse delete": lambda request: request.method == "DELETE",
    "shrink": lambda request: request.method == "HEAD",
}
"""What may be ordered, and of which requests."""


class S3Proxy:
    """Forwards every request, byte for byte, to ``endpoint``, unless it was told otherwise.

    A client that is given `endpoint` signs for the proxy's address; the Host header goes on
    unchanged, so that the server finds the signature right. Orders may be given at any time and
    from any thread; each counts down on its own, and the first one that fits a request is obeyed.
    """

    def __init__(self, endpoint: str) -> None:
        self._upstream = urlsplit(endpoint)
        self._lock = threading.Lock()
        self._orders: Counter[str] = Counter()
        self._delay_s = 0.0
        self._closed = threading.Event()
        self._seen: list[str] = []
        self._open: set[socket.socket] = set()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="s3 proxy"
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed.set()
        self._server.shutdown()
        self._thread.join()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()  # joins the threads of the connections

    @property
    def endpoint(self) -> str:
        """The URL to give to clients."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    @property
    def seen(self) -> list[str]:
        """The requests so far, as ``PUT /bucket/key?query``."""
        with self._lock:
            return list(self._seen)

    def refuse_puts(self, count: int) -> None:
        """Answer 503 to the next ``count`` PUTs; the server does not see them."""
        self._order("refuse", count)

    def cut_puts(self, count: int) -> None:
        """Cut the connection, to both sides, in the middle of the next ``count`` PUTs' bodies."""
        self._order("cut", count)

    def lose_parts(self, count: int = 1) -> None:
        """Answer 200 to the next ``count`` parts of uploads without forwarding them."""
        self._order("lose", count)

    def cut_answers(self, count: int) -> None:
        """Forward the next ``count`` PUTs, and cut the connection instead of answering."""
        self._order("cut answer", count)

    def refuse_deletes(self, count: int) -> None:
        """Answer 503 to the next ``count`` DELETEs; the server does not see them."""
        self._order("refuse delete", count)

    def shrink_objects(self, count: int = 1) -> None:
        """Say half of the true size at the next ``count`` HEADs: the store lost part of it."""
        self._order("shrink", count)

    def delay_answers(self, seconds: float) -> None:
        """Hold every answer back for so long, from now on; 0: no more."""
        with self._lock:
            self._delay_s = seconds

    def behave(self) -> None:
        """Forget every order."""
        with self._lock:
            self._orders.clear()
            self._delay_s = 0.0

    def _order(self, what: str, count: int) -> None:
        with self._lock:
            self._orders[what] += count

    def take_order(self, request: Request) -> str | None:
        """What to do to ``request`` (for the handler)."""
        with self._lock:
            self._seen.append(f"{request.method} {request.path}")
            for what, fits in ORDERS.items():
                if self._orders[what] > 0 and fits(request):
                    self._orders[what] -= 1
                    return what
        return None

    def hold_back(self) -> None:
        """Let the ordered delay pass (for the handler)."""
        with self._lock:
            delay_s = self._delay_s
        if delay_s:
            self._closed.wait(delay_s)

    def note_connection(self, connection: socket.socket, *, is_open: bool) -> None:
        """A connection came or went (for the handler)."""
        with self._lock:
            (self._open.add if is_open else self._open.discard)(connection)

    def connect(self) -> http.client.HTTPConnection:
        """A connection to the real server (for the handler)."""
        assert self._upstream.hostname
        return http.client.HTTPConnection(self._upstream.hostname, self._upstream.port, timeout=60)


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    proxy: S3Proxy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client or the server that hangs up is no error of the proxy's."""
        if not isinstance(sys.exc_info()[1], OSError | http.client.HTTPException):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.proxy.note_connection(self.connection, is_open=True)

    def finish(self) -> None:
        self.server.proxy.note_connection(self.connection, is_open=False)
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the library's name)
        pass

    def _handle(self) -> None:
        request = Request(self.command, self.path, self.headers, self._body())
        proxy = self.server.proxy
        match proxy.take_order(request):
            case "refuse" | "refuse delete":
                proxy.hold_back()
                self._answer(503, {"Content-Type": "application/xml"}, UNAVAILABLE)
            case "cut":
                with suppress(OSError):
                    self._send(request, len(request.body) // 2).close()
                self._hang_up()
            case "lose":
                proxy.hold_back()
                etag = hashlib.md5(request.body, usedforsecurity=False).hexdigest()
                self._answer(200, {"ETag": f'"{etag}"'}, b"")
            case "cut answer":
                self._forward(request)
                self._hang_up()
            case order:
                status, headers, body = self._forward(request)
                if order == "shrink":
                    headers["Content-Length"] = str(int(headers["Content-Length"]) // 2)
                proxy.hold_back()
                self._answer(status, headers, body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle  # noqa: N815 (the library's names)

    def _body(self) -> bytes:
        """The body as it is on the wire; to ``Expect: 100-continue`` was answered before."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length)
            if len(body) < length:
                raise ConnectionAbortedError("the client gave up in the middle of its body")
            return body
        body = b""
        while True:
            line = self.rfile.readline()
            size = int(line.split(b";")[0], 16)
            body += line + self.rfile.read(size) + self.rfile.readline()
            if not size:
                return body

    def _send(self, request: Request, most: int | None = None) -> http.client.HTTPConnection:
        """The request on its way, or the first ``most`` bytes of its body."""
        upstream = self.server.proxy.connect()
        upstream.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
        for name, value in request.headers.items():
            if name.lower() not in HOP_BY_HOP - {"transfer-encoding"}:
                upstream.putheader(name, value)
        upstream.endheaders(request.body[:most] or None)
        return upstream

    def _forward(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        upstream = self._send(request)
        try:
            answer = upstream.getresponse()
            body = answer.read()
            headers = {k: v for k, v in answer.getheaders() if k.lower() not in HOP_BY_HOP}
            return answer.status, headers, body
        finally:
            upstream.close()

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        if self.command != "HEAD":  # whose length is that of a body that does not come
            headers = {k: v for k, v in headers.items() if k.lower() != "content-length"}
            if status not in (204, 304):
                headers["Content-Length"] = str(len(body))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
