"""Iggy's commands for polling, offsets and groups: bytes to send, and the bytes of a reply that count.

Layouts: `iggy_binary_protocol` 0.11.0 (requests/messages, requests/consumer_offsets,
requests/consumer_groups, requests/users, responses/system, responses/messages/poll_routing.rs), which
apache-iggy 0.9.0 speaks. All numbers are little-endian. Poll replies: `poll_wire`.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from backlog_clearer import __version__

CLUSTER, ATTACH, POLL, GET_OFFSET, OFFSET_ROUTE = 12, 14, 100, 120, 123
"""Codes of reads, which are sent with the operation `READ`."""
REGISTER, READ, JOIN, LEAVE, STORE_OFFSET, DELETE_OFFSET = 1, 2, 148, 149, 161, 162
"""Operations."""
CONSUMER, GROUP = 1, 2

PROTOCOL = "0.11.0"
_PROTOCOL = 11 << 10  # the same, packed in 10 bits each

_NUMERIC, _NAME = 1, 2
_PARTITION = struct.Struct("<BI")  # a flag that one is named, and its id
_POLL = struct.Struct("<BQIB")  # strategy, value, count, auto commit
_BY_OFFSET, _BY_TIME, _FIRST, _LAST = 1, 2, 3, 4
_STORE = struct.Struct("<QB")  # offset, acknowledgement
_ACKNOWLEDGED = 1  # by a quorum; 0: not at all

MAX_OFFSET = 2**63 - 1
"""Offsets and counts beyond this are refused as impossible: unset and negative numbers look like that."""

UNROUTED = 0xFFFFFFFF
"""The partition in a reply to a request that reached no partition."""

_NODE = struct.Struct("<H6xBB")  # port of TCP, role, status
_LEADER = _HEALTHY = 0
_OFFSETS = struct.Struct("<IQQ")  # partition, its current offset, the stored one
_SESSION_BYTES = 32  # of a consumer's session in a route: client, session, version of the metadata
_COUNT = struct.Struct("<I")
_RESULT_AT = 8  # after the count of results, and the index of the first


class ReplyError(ValueError):
    """A reply that the protocol does not allow, or whose figures are impossible."""


class StoredOffset(NamedTuple):
    """A consumer's or a group's stored offset in one partition."""

    partition: int
    current: int  # offset of the partition's last message, at the same moment
    offset: int  # of the last message consumed


class Route(NamedTuple):
    """The node of a cluster that takes the offsets of one partition."""

    host: str  # an IP address
    port: int
    session: bytes  # what a connection to it presents, to write for the session that asked


def identifier(value: int | str) -> bytes:
    """A number or a name as the protocol spells it."""
    if isinstance(value, int):
        return struct.pack("<BBI", _NUMERIC, 4, value)
    return bytes((_NAME,)) + _text(value)


def _text(value: str) -> bytes:
    raw = value.encode()
    return bytes((len(raw),)) + raw


def login(user: str | None, secret: str) -> bytes:
    """Log in with a password, or (no user) with a personal access token."""
    credentials = [secret] if user is None else [user, secret]
    texts = ("backlog-clearer", __version__, *credentials)
    return struct.pack("<I", _PROTOCOL) + b"".join(map(_text, texts)) + bytes(4)


def version(packed: int) -> str:
    """A protocol's version as people write it."""
    return f"{packed >> 20}.{packed >> 10 & 0x3FF}.{packed & 0x3FF}"


def _node(reply: bytes, at: int) -> tuple[str, int, bool, int]:
    """One node of a cluster: IP address, TCP port, whether it leads and is healthy, where it ends.

    Raises `struct.error`, `UnicodeDecodeError`.
    """
    (size,) = _COUNT.unpack_from(reply, at)
    (length,) = _COUNT.unpack_from(reply, at + 4 + size)
    end = at + 8 + size + length
    port, role, status = _NODE.unpack_from(reply, end)
    return reply[end - length : end].decode(), port, (role, status) == (_LEADER, _HEALTHY), end + 10


def cluster(reply: bytes) -> tuple[int, tuple[str, int] | None]:
    """How many nodes a cluster has, and the leader's IP address and TCP port if one is known.

    Raises `ReplyError`.
    """
    try:
        (size,) = _COUNT.unpack_from(reply)
        (count,) = _COUNT.unpack_from(reply, 4 + size)
        at, found = 8 + size, None
        for _ in range(count):
            host, port, leads, at = _node(reply, at)
            if leads and found is None:
                found = host, port
    except (struct.error, UnicodeDecodeError):
        raise ReplyError(f"a cluster's description has {len(reply)} bytes") from None
    return count, found


def route(reply: bytes) -> Route:
    """Where a partition's offsets are written; raises `ReplyError`."""
    try:
        host, port, _, _ = _node(reply, _SESSION_BYTES)
    except (struct.error, UnicodeDecodeError):
        raise ReplyError(f"a route's reply has {len(reply)} bytes") from None
    return Route(host, port, reply[:_SESSION_BYTES])


def subject(kind: int, consumer: bytes, place: bytes) -> bytes:
    """The consumer's identifier, and those of stream and topic: requests about polls or offsets begin so."""
    return bytes((kind,)) + consumer + place


def poll(who: bytes, partition: int, offset: int, count: int) -> bytes:
    """Ask for `count` messages from `offset` on; the server stores nothing for it."""
    return who + _PARTITION.pack(1, partition) + _POLL.pack(_BY_OFFSET, offset, count, 0)


def poll_first(who: bytes, partition: int) -> bytes:
    """Ask for the first message that is retained."""
    return who + _PARTITION.pack(1, partition) + _POLL.pack(_FIRST, 0, 1, 0)


def poll_last(who: bytes, partition: int) -> bytes:
    """Ask for the last message."""
    return who + _PARTITION.pack(1, partition) + _POLL.pack(_LAST, 0, 1, 0)


def poll_from_time(who: bytes, partition: int, moment: int) -> bytes:
    """Ask for the first message that was stored at a time or later, in microseconds since 1970."""
    return who + _PARTITION.pack(1, partition) + _POLL.pack(_BY_TIME, moment, 1, 0)


def of_partition(who: bytes, partition: int) -> bytes:
    """What asks for a stored offset, or for the node that takes it."""
    return who + _PARTITION.pack(1, partition)


def store_offset(who: bytes, partition: int, offset: int) -> bytes:
    """Store an offset, to be acknowledged."""
    return who + _PARTITION.pack(1, partition) + _STORE.pack(offset, _ACKNOWLEDGED)


def delete_offset(who: bytes, partition: int) -> bytes:
    """Forget the stored offset, to be acknowledged."""
    return who + _PARTITION.pack(1, partition) + bytes((_ACKNOWLEDGED,))


def result(reply: bytes) -> int:
    """The status in the body of a reply to a write: 0 is success. Raises `ReplyError`.

    A write is answered with a count of refusals, then the refusals (consensus/reply_result.rs).
    """
    try:
        (count,) = _COUNT.unpack_from(reply)
        return int(_COUNT.unpack_from(reply, _RESULT_AT)[0]) if count else 0
    except struct.error:
        raise ReplyError(f"a write's reply has {len(reply)} bytes") from None


def stored(reply: bytes) -> StoredOffset | None:
    """The stored offset in a reply; None: there is none. Raises `ReplyError`."""
    if not reply:
        return None
    try:
        found = StoredOffset(*_OFFSETS.unpack(reply))
    except struct.error:
        raise ReplyError(f"a stored offset's reply has {len(reply)} bytes") from None
    if found.partition == UNROUTED or max(found.current, found.offset) > MAX_OFFSET:
        raise ReplyError(
            f"a stored offset's reply names partition {found.partition}, its end {found.current} and"
            f" offset {found.offset}"
        )
    return found
