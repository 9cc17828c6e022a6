"""A TCP proxy between our processes and a server, by which tests make the network misbehave."""

import queue
import selectors
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
CHUNK = 65536
CONNECT_TIMEOUT_S = 5
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class _Cut:
    """What `TcpProxy.cut_at` was asked for."""

    pattern: bytes
    forward: bool
    left: int
    done: threading.Event = field(default_factory=threading.Event)

    def count(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.done.set()


class _Link:
    """One client's connection and ours to the server on its behalf."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.unsent = {client: b"", server: b""}
        self.held = False
        self.ending = False
        self.cut_on_answer: _Cut | None = None

    def other(self, side: socket.socket) -> socket.socket:
        return self.server if side is self.client else self.client

    def interest(self, side: socket.socket) -> int:
        """What is worth being told about this side."""
        if self.held:
            return 0
        # What the other side does not take is left where it is, as a network would.
        reads = not self.ending and len(self.unsent[self.other(side)]) < CHUNK
        return selectors.EVENT_READ * reads | selectors.EVENT_WRITE * bool(self.unsent[side])


class TcpProxy:
    """Passes connections to ``port`` on to ``host:target``; a context manager.

    One thread does all the work, also that of the methods: when one returns, it has happened.
    """

    def __init__(self, host: str, target: int) -> None:
        self._target = (host, target)
        self._selector = selectors.DefaultSelector()
        self._links: list[_Link] = []
        self._cuts: list[_Cut] = []
        self._hold_new = False
        self._ended = False
        self.opened = 0
        """How many connections there have been, ended ones too."""
        self._orders: queue.SimpleQueue[tuple[Callable[[], None], threading.Event]] = (
            queue.SimpleQueue()
        )
        self._bell, self._ringer = socket.socketpair()
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._listener = _bind(0)
        self.port: int = self._listener.getsockname()[1]
        self._listen()
        self._thread = threading.Thread(target=self._run, name="tcp proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._order(self._end)
        self._thread.join()
        for opened in (self._listener, self._bell, self._ringer, self._selector):
            opened.close()

    @property
    def connections(self) -> int:
        """How many are open, held ones too."""
        return len(self._links)

    def pause(self, *, new: bool = False) -> None:
        """Hold the bytes of all connections, both ways, and close nothing.

        A connection made later passes, unless ``new``: then it is taken, and held as well.
        """

        def pause() -> None:
            self._hold_new = new
            for link in self._links:
                link.held = True
                self._watch(link)

        self._order(pause)

    def resume(self) -> None:
        """Pass on all that was held."""

        def resume() -> None:
            self._hold_new = False
            for link in self._links:
                link.held = False
                self._watch(link)

        self._order(resume)

    def cut(self) -> None:
        """Reset all connections; new ones pass."""

        def cut() -> None:
            for link in list(self._links):
                self._close(link)

        self._order(cut)

    def refuse(self) -> None:
        """Refuse new connections; those that exist go on."""

        def refuse() -> None:
            self._selector.unregister(self._listener)
            self._listener.close()
            # Bound, so that nobody else gets the port, but not listening.
            self._listener = _bind(self.port)

        self._order(refuse)

    def accept(self) -> None:
        """Take new connections again."""
        self._order(self._listen)

    def cut_at(self, pattern: bytes, *, forward: bool, times: int = 1) -> threading.Event:
        """Reset the next ``times`` connections on which a client sends ``pattern`` in one chunk.

        With ``forward`` the server gets it, and the cut comes when it answers, instead of that
        answer; without, the server never sees it. The event is set after the last cut.
        """
        cut = _Cut(pattern, forward, times)
        self._order(lambda: self._cuts.append(cut))
        return cut.done

    def _order(self, work: Callable[[], None]) -> None:
        """Have the thread do ``work``, and wait for it."""
        done = threading.Event()
        self._orders.put((work, done))
        self._ringer.send(b"!")
        assert done.wait(2 * CONNECT_TIMEOUT_S), "the proxy's thread does not answer"

    def _run(self) -> None:
        while not self._ended:
            for key, events in self._selector.select():
                if key.fileobj is self._bell:
                    self._bell.recv(1)
                    work, done = self._orders.get()
                    work()
                    done.set()
                elif key.data is None:
                    # An order in the same round may have closed it.
                    if key.fileobj is self._listener:
                        self._connect()
                elif key.data in self._links and not key.data.held:
                    assert isinstance(key.fileobj, socket.socket)
                    self._serve(key.data, key.fileobj, events)

    def _listen(self) -> None:
        self._listener.listen()
        self._selector.register(self._listener, selectors.EVENT_READ)

    def _connect(self) -> None:
        client, _ = self._listener.accept()
        try:
            server = socket.create_connection(self._target, CONNECT_TIMEOUT_S)
        except OSError:
            _reset(client)
            return
        for side in (client, server):
            side.setblocking(False)
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = _Link(client, server)
        link.held = self._hold_new
        self._links.append(link)
        self.opened += 1
        self._watch(link)

    def _serve(self, link: _Link, side: socket.socket, events: int) -> None:
        try:
            if events & selectors.EVENT_READ:
                self._read(link, side)
            if events & selectors.EVENT_WRITE and link in self._links:
                self._write(link, side)
        except BlockingIOError:
            pass
        except OSError:
            self._close(link)
        if link in self._links:
            self._watch(link)

    def _read(self, link: _Link, side: socket.socket) -> None:
        chunk = side.recv(CHUNK)
        if not chunk:
            link.ending = True
            if not any(link.unsent.values()):
                self._close(link, reset=False)
            return
        if side is link.server and link.cut_on_answer:
            self._close(link)
            link.cut_on_answer.count()
            return
        if side is link.client and (cut := self._cut_for(chunk)):
            if not cut.forward:
                self._close(link)
                cut.count()
                return
            link.cut_on_answer = cut
        link.unsent[link.other(side)] += chunk
        self._write(link, link.other(side))

    def _write(self, link: _Link, side: socket.socket) -> None:
        sent = side.send(link.unsent[side])
        link.unsent[side] = link.unsent[side][sent:]
        if link.ending and not any(link.unsent.values()):
            self._close(link, reset=False)

    def _cut_for(self, chunk: bytes) -> _Cut | None:
        under_way = [link.cut_on_answer for link in self._links]
        for cut in self._cuts:
            if cut.pattern in chunk and cut.left > under_way.count(cut):
                return cut
        return None

    def _watch(self, link: _Link) -> None:
        for side in (link.client, link.server):
            interest = link.interest(side)
            watched = side in self._selector.get_map()
            if interest and watched:
                self._selector.modify(side, interest, link)
            elif interest:
                self._selector.register(side, interest, link)
            elif watched:
                self._selector.unregister(side)

    def _close(self, link: _Link, *, reset: bool = True) -> None:
        self._links.remove(link)
        for side in (link.client, link.server):
            if side in self._selector.get_map():
                self._selector.unregister(side)
            if reset:
                _reset(side)
            else:
                side.close()

    def _end(self) -> None:
        self._ended = True
        for link in list(self._links):
            self._close(link)


def _bind(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((HOST, port))
    return listener


def _reset(side: socket.socket) -> None:
    """Close with RST, not FIN: the peer gets an error, not an end."""
    with suppress(OSError):
        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    side.close()
