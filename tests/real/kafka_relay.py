"""A relay in front of one Kafka broker that loses chosen requests of the program under test."""

from __future__ import annotations

import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from typing_extensions import Self

from backlog_clearer.testing.support import free_port

FETCH, LIST_OFFSETS, METADATA, OFFSET_COMMIT, OFFSET_FETCH = 1, 2, 3, 8, 9
"""API keys (Kafka protocol guide)."""

_HEADER = struct.Struct(">hhih")  # API key, API version, correlation id, length of the client id
_SIZE = struct.Struct(">i")
_CLIENT = b"backlog-clearer"


class KafkaRelay:
    """Passes everything to a broker on 127.0.0.1, for a `with` block, except requests that `loses` chooses.

    `loses` gets the API key of a request of the program under test, and how many of that kind there
    were before it. A request that it chooses is not passed on, and its connection is closed. Requests
    of other clients, and of other brokers, always pass.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.broker = 0
        self.down = False  # accepts no connection: to clients, the broker is dead
        self.loses: Callable[[int, int], bool] = lambda _key, _before: False
        self.lost = 0
        self._seen: Counter[int] = Counter()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", self.port))

    def heal(self) -> None:
        """Pass everything again, and count from the start."""
        self.down, self.lost = False, 0
        self.loses = lambda _key, _before: False
        self._seen.clear()

    def cut(self) -> None:
        """Accept no connection from now on, and close the connections that are open."""
        self.down = True
        for each in list(self._open):
            _close(each)

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()
        _close(self._listener)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            broker = socket.create_connection(("127.0.0.1", self.broker))
        except OSError:
            client.close()
            return
        self._open.update({client, broker})
        if self.down:
            _close(client)
        threading.Thread(target=self._answers, args=(broker, client), daemon=True).start()
        with suppress(OSError, EOFError):
            while True:
                frame = _read(client, _SIZE.unpack(_read(client, _SIZE.size))[0])
                if self._is_lost(frame):
                    break
                broker.sendall(_SIZE.pack(len(frame)) + frame)
        _close(client)
        _close(broker)
        self._open -= {client, broker}

    def _is_lost(self, frame: bytes) -> bool:
        key, _, _, size = _HEADER.unpack_from(frame)
        if frame[_HEADER.size : _HEADER.size + size] != _CLIENT:
            return False
        before, self._seen[key] = self._seen[key], self._seen[key] + 1
        lost = self.loses(key, before)
        self.lost += lost
        return lost

    @staticmethod
    def _answers(broker: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := broker.recv(1 << 16):
                client.sendall(data)
        _close(client)


def _read(source: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = source.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


def _close(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
