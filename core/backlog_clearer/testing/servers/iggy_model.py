"""Streams, topics and partitions of the Iggy test server, and their bytes on the wire.

Layouts: crate `iggy_binary_protocol` 0.11.0.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

HEADER = 256  # bytes of a frame's header, and of a batch's


class RequestReader:
    """Fields of a request, one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, layout: str) -> int:
        """One number."""
        (value,) = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return int(value)

    def text(self) -> str:
        """A name behind its length."""
        size = self.take("B")
        self.at += size
        return self.data[self.at - size : self.at].decode()

    def ident(self) -> int | str:
        """A number or a name."""
        kind = self.take("B")
        if kind == 1:
            self.at += 1
            return self.take("I")
        return self.text()


@dataclass
class PartitionLog:
    """One partition: messages of one size."""

    first: int = 0
    next: int = 0
    size: int = 100  # bytes of a payload
    offsets: dict[tuple[int, str], int] = field(default_factory=dict)

    @property
    def current(self) -> int:
        """Offset of the last message; 0 also for none."""
        return max(0, self.next - 1)


@dataclass
class Topic:
    """A topic with its groups."""

    id: int
    name: str
    logs: dict[int, PartitionLog]
    groups: dict[str, dict[int, list[int]]] = field(default_factory=dict)  # members' partitions


@dataclass
class Stream:
    """A stream with its topics."""

    id: int
    name: str
    topics: dict[str, Topic] = field(default_factory=dict)


def join(members: dict[int, list[int]], client: int, partitions: list[int]) -> None:
    """Assign a group's partitions when a member joins, as the server does (stm/consumer_group.rs).

    The new member gets those without an owner; if there are none, those that others have beyond their
    share.
    """
    if client in members:
        return
    mine = members[client] = []
    owned = {number for numbers in members.values() for number in numbers}
    mine += [number for number in partitions if number not in owned]
    if mine:
        return
    share, more = divmod(len(partitions), len(members))
    for numbers in members.values():
        allowed = share + (more > 0)
        if len(numbers) > share:
            more -= 1
        while numbers is not mine and len(numbers) > allowed:
            mine.append(numbers.pop())


def leave(members: dict[int, list[int]], client: int, partitions: list[int]) -> None:
    """Assign all partitions again when a member leaves, as the server does."""
    if members.pop(client, None) is not None:
        for index, member in enumerate(members):
            members[member] = partitions[index :: len(members)]


def named(text: str) -> bytes:
    """A name behind its length."""
    raw = text.encode()
    return bytes((len(raw),)) + raw


def stream_head(stream: Stream) -> bytes:
    """A stream without its topics."""
    head = struct.pack("<IQIQQ", stream.id, 1, len(stream.topics), 0, 0)
    return head + named(stream.name) + struct.pack("<I", 0)


def topic_head(topic: Topic) -> bytes:
    """A topic without its partitions."""
    count = sum(log.next - log.first for log in topic.logs.values())
    head = struct.pack("<IQIQBQQQ", topic.id, 1, len(topic.logs), 0, 1, 0, 1, count)
    return head + named(topic.name) + struct.pack("<II", 0, 0)


def topic_details(topic: Topic) -> bytes:
    """A topic with its partitions."""
    parts = [topic_head(topic)]
    for number, log in topic.logs.items():
        count = log.next - log.first
        size = count * (48 + log.size)
        parts.append(struct.pack("<IQIQQQ", number, 1, 1, log.current, size, count))
    return b"".join(parts)


_FRAMES: dict[tuple[int, int], bytes] = {}


def frames(count: int, size: int) -> bytes:
    """The messages of a batch; each size is built once."""
    made = _FRAMES.get((count, size))
    if made is None:
        payload = bytes(size)
        made = b"".join(
            struct.pack("<QQQIIIIQ", 0, index + 1, 0, index, 0, 0, size, 0) + payload
            for index in range(count)
        )
        if len(_FRAMES) > 8:
            _FRAMES.clear()
        _FRAMES[(count, size)] = made
    return made


def batch_head(number: int, base: int, count: int, size: int) -> bytes:
    """The header before the messages of a batch."""
    head = bytearray(HEADER)
    struct.pack_into("<QQQQQQI", head, 0, number, base, 1, 1, HEADER + size, 0, count)
    return bytes(head)
