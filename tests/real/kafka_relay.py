"""A relay in front of one Kafka broker that loses or damages chosen requests of the program under test."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum
from types import TracebackType

from typing_extensions import Self

from backlog_clearer.testing.support import free_port

FETCH, LIST_OFFSETS, METADATA, OFFSET_COMMIT, OFFSET_FETCH = 1, 2, 3, 8, 9
FIND_COORDINATOR, DESCRIBE_GROUPS, API_VERSIONS = 10, 15, 18
"""API keys (Kafka protocol guide)."""

_HEADER = struct.Struct(">hhih")  # API key, API version, correlation id, length of the client id
_SIZE = struct.Struct(">i")
_CLIENT = b"backlog-clearer"


class Damage(Enum):
    """What becomes of an answer; the broker has done what was asked."""

    CUT = "the connection is closed"
    SWALLOW = "it never arrives"
    DELAY = "it is late"
    WRONG_ID = "it answers another request"
    HUGE = "it announces a length that it does not have"
    ZEROS = "its fields are zero"
    ONES = "all its bits are set"


class KafkaRelay:
    """Passes everything to a broker on 127.0.0.1, for a `with` block, except requests that `loses` chooses.

    `loses` gets the API key of a request of the program under test, and how many of that kind there
    were before it. A request that it chooses is not passed on, and its connection is closed. Requests
    of other clients, and of other brokers, always pass. `damages` likewise chooses what becomes of the
    answer to a request that is passed on, by its API key and whether its connection is the program's own, and
    not librdkafka's. `replace` are pairs of addresses of the same length, which would
    lead a client past the relay.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.broker = 0
        self.down = False  # accepts no connection: to clients, the broker is dead
        self.loses: Callable[[int, int], bool] = lambda _key, _before: False
        self.lost = 0
        self.damages: Callable[[int, bool], Damage | None] = lambda _key, _own: None
        self.damaged = 0
        self.replace: Sequence[tuple[bytes, bytes]] = ()
        self._seen: Counter[int] = Counter()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", self.port))

    def heal(self) -> None:
        """Pass everything again, and count from the start."""
        self.down, self.lost = False, 0
        self.loses = lambda _key, _before: False
        self.damages = lambda _key, _own: None
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
        asked: deque[Damage | None] = deque()  # a broker answers in the order of the requests
        threading.Thread(target=self._answers, args=(broker, client, asked), daemon=True).start()
        own: bool | None = None
        with suppress(OSError, EOFError):
            while True:
                frame = _read(client, _SIZE.unpack(_read(client, _SIZE.size))[0])
                if self._is_lost(frame):
                    break
                own = _asks_oldest(frame) if own is None else own
                asked.append(self._damage(frame, own=own))
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

    def _damage(self, frame: bytes, *, own: bool) -> Damage | None:
        key, _, _, size = _HEADER.unpack_from(frame)
        if frame[_HEADER.size : _HEADER.size + size] != _CLIENT:
            return None
        damage = self.damages(key, own)
        self.damaged += damage is not None
        return damage

    def _answers(
        self, broker: socket.socket, client: socket.socket, asked: deque[Damage | None]
    ) -> None:
        with suppress(OSError, EOFError):
            while True:
                frame = _read(broker, _SIZE.unpack(_read(broker, _SIZE.size))[0])
                for old, new in self.replace:
                    frame = frame.replace(old, new)
                damage = asked.popleft()
                if damage is Damage.CUT:
                    break
                if damage is not Damage.SWALLOW:
                    client.sendall(_damaged(frame, damage))
        _close(client)


def _asks_oldest(frame: bytes) -> bool:
    """Whether a connection begins with ApiVersions 0, as none of librdkafka's does."""
    key, version, _, _ = _HEADER.unpack_from(frame)
    return bool(key == API_VERSIONS and version == 0)


def _damaged(frame: bytes, damage: Damage | None) -> bytes:
    """An answer with its length, as a client gets it."""
    number, body = frame[: _SIZE.size], frame[_SIZE.size :]
    size = len(frame)
    if damage is Damage.DELAY:
        time.sleep(0.5)
    elif damage is Damage.WRONG_ID:
        number = _SIZE.pack(_SIZE.unpack(number)[0] + 1000)
    elif damage is Damage.HUGE:
        size = 1 << 29
    elif damage is Damage.ZEROS:
        body = bytes(len(body))
    elif damage is Damage.ONES:
        body = b"\xff" * len(body)
    return _SIZE.pack(size) + number + body


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
