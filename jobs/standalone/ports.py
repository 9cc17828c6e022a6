"""Free TCP ports on 127.0.0.1."""

import socket
from collections.abc import Iterable, Mapping
from contextlib import ExitStack

HOST = "127.0.0.1"


class PortInUseError(Exception):
    """A port that was asked for by number belongs to another process."""


def choose(names: Iterable[str], given: Mapping[str, int]) -> dict[str, int]:
    """A port for each of ``names``: the ``given`` one, or one that is free right now.

    Raises:
        PortInUseError: a given port is taken.
    """
    chosen = {}
    with ExitStack() as stack:
        for name in names:
            # Each stays bound until all are chosen, or the same one would be found twice.
            listener = stack.enter_context(socket.socket())
            # As the servers do: connections that linger from an earlier run are no obstacle.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((HOST, given.get(name, 0)))
            except OSError as error:
                raise PortInUseError(f"port {given.get(name)} for {name}: {error}") from error
            chosen[name] = int(listener.getsockname()[1])
    return chosen
