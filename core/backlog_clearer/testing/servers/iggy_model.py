"""Streams, topics and partitions of the Iggy test server, and their bytes on the wire.

Layouts: crate `iggy_binary_protocol` 0.11.0.
"""

from __future__ import annotations

import itertools
import struct
import time
from collections.abc import Iterable
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


_clock = itertools.count(1_700_000_000_000_000)  # microseconds; each creation and batch has its own


@dataclass
class PartitionLog:
    """One partition: messages of one size, whose offsets may have gaps after a crash."""

    first: int = 0
    next: int = 0
    size: int = 100  # bytes of a payload
    offsets: dict[tuple[int, str], int] = field(default_factory=dict)
    created_at: int = field(default_factory=lambda: next(_clock))
    filled_at: int = field(default_factory=lambda: next(_clock))
    holes: list[tuple[int, int]] = field(
        default_factory=list
    )  # first offset without a message, next with

    times: list[tuple[int, int]] = field(default_factory=list)
    """When messages were sent: (first offset, microseconds since 1970) of each request."""

    def append(self, count: int) -> int:
        """Add messages, all in one batch; the first one's offset."""
        base = self.next
        self.next += count
        self.times.append((base, time.time_ns() // 1000))
        return base

    def sent_at(self, offset: int) -> int:
        """When the message at an offset was sent."""
        return next((at for base, at in reversed(self.times) if base <= offset), self.filled_at)

    def first_from(self, moment: int) -> int:
        """The first offset that was sent at a time or later; the next one, if there is none."""
        return next((base for base, at in self.times if at >= moment), self.next)

    @property
    def current(self) -> int:
        """The last offset given away; 0 also for none."""
        return max(0, self.next - 1)

    def ranges(self, start: int) -> list[tuple[int, int]]:
        """The offsets from `start` on that have messages, as (first, end)."""
        found, at = [], max(start, self.first)
        for begin, end in self.holes:
            if at < begin:
                found.append((at, begin))
            at = max(at, end)
        return [*found, (at, self.next)] if at < self.next else found

    def count(self) -> int:
        """Messages retained."""
        return sum(end - begin for begin, end in self.ranges(self.first))

    def crash(self, lost: int, reserved: int) -> None:
        """Lose the last messages, and continue at a later offset."""
        begin = self.next - lost
        self.next += reserved
        self.holes.append((begin, self.next))

    def purge(self) -> None:
        """Empty the partition, as the server does: offsets begin again, and none is stored."""
        self.first = self.next = 0
        self.offsets.clear()
        self.holes.clear()
        self.times.clear()
        self.filled_at = next(_clock)


@dataclass
class Topic:
    """A topic with its groups."""

    id: int
    name: str
    logs: dict[int, PartitionLog]
    groups: dict[str, dict[int, list[int]]] = field(default_factory=dict)  # members' partitions
    created_at: int = field(default_factory=lambda: next(_clock))

    def add(self, count: int) -> None:
        """Add partitions."""
        for number in range(max(self.logs) + 1, max(self.logs) + 1 + count):
            self.logs[number] = PartitionLog()


@dataclass
class Stream:
    """A stream with its topics."""

    id: int
    name: str
    topics: dict[str, Topic] = field(default_factory=dict)
    created_at: int = field(default_factory=lambda: next(_clock))


def free_id(items: Iterable[Topic | Stream]) -> int:
    """The lowest id that is free: a server uses ids again."""
    taken = {item.id for item in items}
    return next(number for number in itertools.count() if number not in taken)


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
    head = struct.pack("<IQIQQ", stream.id, stream.created_at, len(stream.topics), 0, 0)
    return head + named(stream.name) + struct.pack("<I", 0)


def topic_head(topic: Topic) -> bytes:
    """A topic without its partitions."""
    count = sum(log.count() for log in topic.logs.values())
    head = struct.pack("<IQIQBQQQ", topic.id, topic.created_at, len(topic.logs), 0, 1, 0, 1, count)
    return head + named(topic.name) + struct.pack("<II", 0, 0)


def topic_details(topic: Topic) -> bytes:
    """A topic with its partitions."""
    parts = [topic_head(topic)]
    for number, log in topic.logs.items():
        count = log.count()
        size = count * (48 + log.size)
        parts.append(struct.pack("<IQIQQQ", number, log.created_at, 1, log.current, size, count))
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


def batch_head(number: int, base: int, count: int, size: int, stored_at: int = 1) -> bytes:
    """The header before the messages of a batch."""
    head = bytearray(HEADER)
    struct.pack_into("<QQQQQQI", head, 0, number, base, stored_at, 1, HEADER + size, 0, count)
    return bytes(head)
