"""Descriptions of an Iggy topic and of its groups: codes of requests, and what counts of the replies.

Layouts: `iggy_binary_protocol` 0.11.0 (responses/topics/get_topic.rs, responses/streams/get_stream.rs,
responses/consumer_groups). An empty reply: it does not exist. All numbers are little-endian.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from backlog_clearer.brokers.iggy.wire import ReplyError

GET_TOPIC, GET_GROUP, GET_GROUPS = 300, 600, 601
"""Codes of reads."""

_TOPIC = struct.Struct("<IQI33x")  # id, time of creation, partitions; then its name
_PARTITION = struct.Struct("<IQ4xQQQ")  # id, time of creation, last offset, bytes, messages
_GROUP = struct.Struct("<I4xI")  # id, members; then its name
_MEMBER = struct.Struct("<II")  # id, partitions
_NUMBER = struct.Struct("<I")


class PartitionFigures(NamedTuple):
    """A partition as its topic's description has it."""

    id: int
    created_at: int
    current: int  # offset of its last message
    size: int  # bytes of its messages
    messages: int


class DescribedTopic(NamedTuple):
    """A topic with all of its partitions."""

    id: int
    created_at: int
    partitions: tuple[PartitionFigures, ...]


class GroupMember(NamedTuple):
    """A member of a consumer group."""

    id: int
    partitions: tuple[int, ...]


class DescribedGroup(NamedTuple):
    """A consumer group; in a list without its members."""

    id: int
    name: str
    members_count: int
    members: tuple[GroupMember, ...] = ()


class _Fields:
    """A reply, read from its begin on. Raises `struct.error`, `IndexError`, `UnicodeDecodeError`."""

    def __init__(self, reply: bytes) -> None:
        self._reply = reply
        self._at = 0

    @property
    def more(self) -> bool:
        """Whether anything is left."""
        return self._at < len(self._reply)

    def take(self, layout: struct.Struct) -> tuple[int, ...]:
        """The next numbers."""
        found = layout.unpack_from(self._reply, self._at)
        self._at += layout.size
        return found

    def name(self) -> str:
        """A name, after a byte with its length."""
        begin, self._at = self._at + 1, self._at + 1 + self._reply[self._at]
        if self._at > len(self._reply):
            raise IndexError
        return self._reply[begin : self._at].decode()

    def skip(self) -> None:
        """Pass over options, after the number of their bytes."""
        (length,) = self.take(_NUMBER)
        self._at += length

    def group(self) -> DescribedGroup:
        """A group without its members."""
        id_, members = self.take(_GROUP)
        return DescribedGroup(id_, self.name(), members)

    def member(self) -> GroupMember:
        """A member of a group."""
        id_, count = self.take(_MEMBER)
        return GroupMember(id_, tuple(self.take(_NUMBER)[0] for _ in range(count)))


_DAMAGED = (struct.error, IndexError, UnicodeDecodeError)


def topic(reply: bytes) -> DescribedTopic:
    """A topic; raises `ReplyError`, also where partitions are missing."""
    fields = _Fields(reply)
    try:
        id_, created_at, count = fields.take(_TOPIC)
        fields.name()
        fields.skip()  # its options
        fields.skip()  # those derived from the server's
        partitions = [PartitionFigures(*fields.take(_PARTITION)) for _ in range(count)]
    except _DAMAGED:
        raise _incomplete("a topic", reply) from None
    return DescribedTopic(id_, created_at, tuple(partitions))


def groups(reply: bytes) -> list[DescribedGroup]:
    """The groups of a topic; raises `ReplyError`."""
    fields, found = _Fields(reply), []
    try:
        while fields.more:
            found.append(fields.group())
    except _DAMAGED:
        raise _incomplete("groups", reply) from None
    return found


def group(reply: bytes) -> DescribedGroup:
    """A group with its members; raises `ReplyError`."""
    fields = _Fields(reply)
    try:
        found = fields.group()
        members = [fields.member() for _ in range(found.members_count)]
    except _DAMAGED:
        raise _incomplete("a group", reply) from None
    return found._replace(members=tuple(members))


def _incomplete(what: str, reply: bytes) -> ReplyError:
    return ReplyError(f"the description of {what} in {len(reply)} bytes is incomplete")
