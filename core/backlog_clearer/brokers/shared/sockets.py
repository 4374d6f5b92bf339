"""Opening sockets, and waiting for several of them."""

from __future__ import annotations

import select
import socket
import ssl
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TypeVar

# Linux discards received bytes without copying them; elsewhere the flag has another meaning.
DROP = socket.MSG_TRUNC if sys.platform == "linux" else 0


def connect(
    host: str, port: int, timeout_s: float, tls: ssl.SSLContext | None, name: str | None = None
) -> socket.socket:
    """A connected socket, over TLS where there is a context; `name`: the certificate's, if not the host's.

    `timeout_s` (seconds) applies to each step, and to the socket that is returned. Raises `OSError`, of which
    `ssl.SSLError` is one, and then leaves nothing open.
    """
    made = socket.create_connection((host, port), timeout_s)
    try:
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made if tls is None else tls.wrap_socket(made, server_hostname=name or host)
    except BaseException:
        made.close()
        raise


class Waitable:
    """A connection over one socket, plain or TLS, which can be waited for together with others."""

    _socket: socket.socket

    @property
    def buffered(self) -> bool:
        """Whether TLS holds received bytes that a wait on the socket would miss."""
        return isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0

    def fileno(self) -> int:
        """For waiting on several connections at a time."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close, never raise."""
        with suppress(OSError):
            self._socket.close()


_Connection = TypeVar("_Connection", bound=Waitable)


def wait(connections: Sequence[_Connection], timeout_s: float) -> Sequence[_Connection]:
    """The connections with something to receive, after at most `timeout_s` seconds."""
    ready = [connection for connection in connections if connection.buffered]
    if ready or not connections:
        return ready
    # poll has no limit on descriptors; Windows has only select
    if not hasattr(select, "poll"):
        return select.select(connections, [], [], timeout_s)[0]
    poller = select.poll()
    by_number = {connection.fileno(): connection for connection in connections}
    for number in by_number:
        poller.register(number, select.POLLIN)
    return [by_number[number] for number, _ in poller.poll(timeout_s * 1000)]
