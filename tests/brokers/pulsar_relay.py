"""A relay in front of a Pulsar broker that parses frames and can inject faults."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType

from typing_extensions import Self

from backlog_clearer.testing.servers.pulsar_frames import (
    LOOKUP_RESPONSE,
    MESSAGE,
    SUBSCRIBE,
    Fields,
    Value,
    frame,
    parse_command,
    parse_fields,
)

_CONNECT = 1  # how a lookup ends that names the owner
_TRICKLED = 3000  # bytes of each connection that are sent one by one


class Relay:
    """Listens on 127.0.0.1; every connection goes to the broker. All settings may change at any time.

    Frames from the broker are numbered over all connections, from 1.
    """

    def __init__(self, broker: int, *, answers_lookups: bool = True) -> None:
        self._broker = broker
        self._answers_lookups = answers_lookups
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.seen: list[tuple[int, Fields]] = []  # commands of clients
        self.frames = 0  # of the broker, so far
        self.delivered: set[tuple[int, int]] = (
            set()
        )  # ledger and entry of each message that passed whole
        self.connections = 0
        self.cuts: set[int] = set()  # frames in the middle of which the connection ends
        self.before: dict[int, Callable[[], bytes]] = {}  # what is sent in front of a frame
        self.lookups: deque[Mapping[str, Value]] = deque()  # answers to lookups; then: this relay
        self.instead: dict[int, Mapping[str, Value]] = {}  # fields of the broker's answers, by type
        self.swallowed: set[int] = set()  # types of clients' commands that the broker does not get
        self.trickle = False
        self.mute = False
        self._sockets: list[socket.socket] = []

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"pulsar://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._sockets:
            each.close()

    def commands(self, kind: int) -> list[Fields]:
        """Commands of one type that clients have sent."""
        return [body for found, body in self.seen if found == kind]

    def consumer(self) -> int:
        """The number of the consumer that subscribed last."""
        number = self.commands(SUBSCRIBE)[-1][4][0]
        assert isinstance(number, int)
        return number

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                broker = socket.create_connection(("127.0.0.1", self._broker))
                self._sockets += client, broker
                self.connections += 1
                for run in (self._from_client, self._from_broker):
                    threading.Thread(target=run, args=(client, broker), daemon=True).start()

    def _from_client(self, client: socket.socket, broker: socket.socket) -> None:
        with _ended(client, broker), client.makefile("rb") as stream:
            while whole := _frame(stream.read):
                kind, body = parse_command(whole)
                self.seen.append((kind, body))
                if kind not in self.swallowed:
                    broker.sendall(whole)

    def _from_broker(self, client: socket.socket, broker: socket.socket) -> None:
        trickled = 0
        with _ended(client, broker), broker.makefile("rb") as stream:
            while whole := _frame(stream.read):
                self.frames += 1
                number = self.frames
                if number in self.before:
                    client.sendall(self.before.pop(number)())
                kind, body = parse_command(whole)
                if kind == LOOKUP_RESPONSE and self._answers_lookups:
                    whole = self._looked_up(body)
                if kind in self.instead:
                    whole = _answer(kind, body, 2, self.instead[kind])
                if number in self.cuts:
                    client.sendall(whole[: len(whole) // 2])
                    return
                step = 1 if self.trickle and trickled < _TRICKLED else len(whole)
                trickled += len(whole)
                for at in range(0, 0 if self.mute else len(whole), step):
                    client.sendall(whole[at : at + step])
                if kind == MESSAGE and not self.mute:
                    self.delivered.add(_place(body))

    def _looked_up(self, body: Fields) -> bytes:
        here: Mapping[str, Value] = {"f1": self.url, "f3": _CONNECT}
        answer = self.lookups.popleft() if self.lookups else here
        return _answer(LOOKUP_RESPONSE, body, 4, answer)


def _place(message: Fields) -> tuple[int, int]:
    """Ledger and entry of a message; protobuf leaves out neither."""
    (place,) = message[2]
    assert isinstance(place, bytes)
    found = parse_fields(place)
    (ledger,), (entry,) = found[1], found[2]
    assert isinstance(ledger, int)
    assert isinstance(entry, int)
    return ledger, entry


def _answer(kind: int, body: Fields, request_id: int, values: Mapping[str, Value]) -> bytes:
    """An answer with other values to the same request, whose number is in the field `request_id`."""
    number = body[request_id][0]
    assert isinstance(number, int)
    return frame(kind, b"", **{f"f{request_id}": number}, **values)


@contextlib.contextmanager
def _ended(*sockets: socket.socket) -> Iterator[None]:
    """End both sides of a connection when one ends."""
    with contextlib.suppress(OSError):
        yield
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


def _frame(read: Callable[[int], bytes]) -> bytes:
    """A whole frame; empty at the stream's end."""
    head = read(4)
    if len(head) < 4:
        return b""
    return head + read(struct.unpack(">I", head)[0])
