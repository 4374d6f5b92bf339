"""A TCP relay in front of a broker, which breaks, refuses, holds or drops what passes through it."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum
from types import TracebackType

from typing_extensions import Self

_RESET = struct.pack(
    "ii", 1, 0
)  # SO_LINGER of 0 s: closing sends RST, as a port without a listener does
_CHUNK = 64 * 1024
_CONNECT_S = 5.0
_DRIP_S = 0.05  # between two bytes


class RelayMode(Enum):
    """What happens to connections and to the bytes on them."""

    PASS = "pass"  # not a password
    REFUSE = "refuse"  # new connections are reset
    STALL = "stall"  # connections are accepted and stay open, and no byte passes
    DRIP = "drip"  # the broker's bytes pass one by one, with pauses
    SWALLOW = "swallow"  # the broker gets nothing more from clients; its own bytes pass


class Relay:
    """Listens on a port of 127.0.0.1 for a `with` block; each connection goes to one host and port.

    `replace` are pairs of byte strings of the same length that are replaced in what the broker sends:
    addresses that would lead a client past the relay. Methods may be called from any thread.
    """

    def __init__(
        self, host: str, port: int, *, listen: int = 0, replace: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        if any(len(old) != len(new) for old, new in replace):
            raise ValueError("replace: both byte strings of a pair must have the same length")
        self._broker = (host, port)
        self.replace = list(replace)
        self._listener = socket.create_server(("127.0.0.1", listen))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0  # accepted since the start, those reset at once included
        self.sent = 0  # bytes from clients that reached the broker
        self.swallowed = 0  # bytes from clients that were dropped
        self.received = 0  # bytes from the broker that reached clients
        self._mode = RelayMode.PASS
        self._changed = threading.Condition()
        self._open: set[socket.socket] = set()

    @property
    def address(self) -> str:
        """HOST:PORT for clients."""
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="relay", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._switch(RelayMode.REFUSE, cut=True)

    def cut(self) -> None:
        """Break all connections; new ones pass."""
        self._switch(RelayMode.PASS, cut=True)

    def refuse(self) -> None:
        """Break all connections, and reset new ones."""
        self._switch(RelayMode.REFUSE, cut=True)

    def stall(self) -> None:
        """Keep connections open, accept new ones, and pass no byte either way."""
        self._switch(RelayMode.STALL, cut=False)

    def swallow(self) -> None:
        """Drop what clients send from now on; what the broker sends passes."""
        self._switch(RelayMode.SWALLOW, cut=False)

    def drip(self) -> None:
        """Pass what the broker sends byte by byte, so that there is never a long silence."""
        self._switch(RelayMode.DRIP, cut=False)

    def heal(self) -> None:
        """Pass everything on again; connections that a fault has touched are broken first."""
        self._switch(RelayMode.PASS, cut=self._mode is not RelayMode.PASS)

    def _switch(self, mode: RelayMode, *, cut: bool) -> None:
        with self._changed:
            self._mode = mode
            if cut:
                for each in self._open:
                    reset(each)
                self._open.clear()
            self._changed.notify_all()

    def _accept(self) -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with self._changed:
            self.connections += 1
            refused = self._mode is RelayMode.REFUSE
            if not refused:
                self._open.add(client)
        if refused:
            reset(client)
            return
        try:
            broker = socket.create_connection(self._broker, _CONNECT_S)
        except OSError:
            reset(client)
            return
        broker.settimeout(None)
        with self._changed:
            alive = client in self._open
            if alive:
                self._open.add(broker)
        if not alive:
            broker.close()
            return
        back = threading.Thread(target=self._pump, args=(broker, client, False), daemon=True)
        back.start()
        self._pump(client, broker, True)
        back.join()
        with self._changed:
            self._open -= {client, broker}
        for each in (client, broker):
            each.close()

    def _pump(self, source: socket.socket, target: socket.socket, upward: bool) -> None:
        """Pass bytes on in one direction until either end closes."""
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                with self._changed:
                    while self._mode is RelayMode.STALL and source in self._open:
                        self._changed.wait()
                    if source not in self._open:
                        break
                    swallowed = upward and self._mode is RelayMode.SWALLOW
                if swallowed:
                    self.swallowed += len(data)
                    continue
                data = self._passed(data, source, target, upward=upward)
                if upward or self._mode is not RelayMode.DRIP:
                    target.sendall(data)
                else:
                    self._drip(data, source, target)
                with self._changed:
                    if upward:
                        self.sent += len(data)
                    else:
                        self.received += len(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def _drip(self, data: bytes, source: socket.socket, target: socket.socket) -> None:
        """Send bytes one by one, until the mode is another one; then the rest."""
        for at in range(len(data)):
            with self._changed:
                ended = self._changed.wait_for(
                    lambda: self._mode is not RelayMode.DRIP or source not in self._open, _DRIP_S
                )
            if ended:
                target.sendall(data[at:])
                return
            target.sendall(data[at : at + 1])

    def _passed(
        self, data: bytes, source: socket.socket, target: socket.socket, *, upward: bool
    ) -> bytes:
        """What is sent on instead of some bytes; `OSError` ends this direction of the connection."""
        del source, target
        for old, new in () if upward else self.replace:
            data = data.replace(old, new)
        return data


def reset(each: socket.socket) -> None:
    """End a connection as a crashed process does; its threads notice."""
    with suppress(OSError):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        each.shutdown(socket.SHUT_RDWR)
    with suppress(OSError):
        each.close()
