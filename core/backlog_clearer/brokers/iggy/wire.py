"""Iggy's commands for polling and offsets: bytes to send, and the few bytes of a reply that count.

Layouts: `iggy_binary_protocol` 0.11.0 (requests/messages, requests/consumer_offsets, requests/users,
responses/system, batch.rs), which apache-iggy 0.9.0 speaks. All numbers are little-endian.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from backlog_clearer import __version__

CLUSTER, POLL, GET_OFFSET, STORE_OFFSET, DELETE_OFFSET = 12, 100, 120, 121, 122
CONSUMER, GROUP = 1, 2

_NUMERIC, _NAME = 1, 2
_PARTITION = struct.Struct("<BI")  # a flag that one is named, and its id
_POLL = struct.Struct("<BQIB")  # strategy, value, count, auto commit
_BY_OFFSET = 1
_STORE = struct.Struct("<QB")  # offset, acknowledgement
_ACKNOWLEDGED = 1  # by a quorum; 0: not at all

_HEAD = struct.Struct("<IQI")  # partition, its current offset, messages in this reply
_BATCH_BYTES = 256  # header of a batch
_BASE_OFFSET_AT = 8  # in it, behind the partition's id
_DELTA_AT = 24  # in a message's header, behind checksum and id
POLLED_BYTES = _HEAD.size + _BATCH_BYTES + _DELTA_AT + 4
"""What `polled` looks at, at most."""
_PROTOCOL = 11 << 10  # 0.11.0, packed in 10 bits each
_NODE = struct.Struct("<H6xBB")  # port of TCP, role, status
_LEADER = _HEALTHY = 0
_OFFSETS = struct.Struct("<IQQ")  # partition, its current offset, the stored one
_NOBODY = 0xFFFFFFFF  # the partition in a reply that could not be routed


class ReplyError(ValueError):
    """A reply that is not what the protocol says."""


class Polled(NamedTuple):
    """What a poll's reply says of itself."""

    partition: int | None  # None: the server did not look at any
    current: int  # offset of the partition's last message
    messages: int
    first: int | None  # offset of the first message in it; None: there is none


def identifier(value: str) -> bytes:
    """A number or a name as the protocol spells it."""
    if value.isdecimal():
        return struct.pack("<BBI", _NUMERIC, 4, int(value))
    return bytes((_NAME,)) + _text(value)


def _text(value: str) -> bytes:
    raw = value.encode()
    return bytes((len(raw),)) + raw


def login(user: str | None, secret: str) -> bytes:
    """Log in with a password, or (no user) with a personal access token."""
    who = [secret] if user is None else [user, secret]
    what = ("backlog-clearer", __version__, *who)
    return struct.pack("<I", _PROTOCOL) + b"".join(map(_text, what)) + bytes(4)


def leader(reply: bytes) -> tuple[str, int] | None:
    """IP address and TCP port of a cluster's leader; None: one node alone, or none is known to lead."""
    try:
        (size,) = struct.unpack_from("<I", reply)
        (count,) = struct.unpack_from("<I", reply, 4 + size)
        at = 8 + size
        for _ in range(count if count > 1 else 0):
            (size,) = struct.unpack_from("<I", reply, at)
            (length,) = struct.unpack_from("<I", reply, at + 4 + size)
            behind = at + 8 + size + length
            port, role, status = _NODE.unpack_from(reply, behind)
            if (role, status) == (_LEADER, _HEALTHY):
                return reply[behind - length : behind].decode(), port
            at = behind + _NODE.size
    except (struct.error, UnicodeDecodeError):
        raise ReplyError(f"a cluster's description has {len(reply)} bytes") from None
    return None


def subject(kind: int, consumer: str, stream: str, topic: str) -> bytes:
    """Who asks for what, as every command of this file begins."""
    return bytes((kind,)) + b"".join(map(identifier, (consumer, stream, topic)))


def poll(who: bytes, partition: int, offset: int, count: int) -> bytes:
    """Ask for `count` messages from `offset` on; nothing is stored for it."""
    return who + _PARTITION.pack(1, partition) + _POLL.pack(_BY_OFFSET, offset, count, 0)


def get_offset(who: bytes, partition: int) -> bytes:
    """Ask for the stored offset."""
    return who + _PARTITION.pack(1, partition)


def store_offset(who: bytes, partition: int, offset: int) -> bytes:
    """Store an offset, to be acknowledged."""
    return who + _PARTITION.pack(1, partition) + _STORE.pack(offset, _ACKNOWLEDGED)


def delete_offset(who: bytes, partition: int) -> bytes:
    """Forget the stored offset, to be acknowledged."""
    return who + _PARTITION.pack(1, partition) + bytes((_ACKNOWLEDGED,))


def polled(reply: bytes) -> Polled:
    """The head of a poll's reply, and where its messages begin; raises `ReplyError`."""
    try:
        partition, current, messages = _HEAD.unpack_from(reply)
        first = None
        if messages:
            (base,) = struct.unpack_from("<Q", reply, _HEAD.size + _BASE_OFFSET_AT)
            (delta,) = struct.unpack_from("<I", reply, _HEAD.size + _BATCH_BYTES + _DELTA_AT)
            first = base + delta
    except struct.error:
        raise ReplyError(f"a poll's reply of {len(reply)} bytes ends too early") from None
    return Polled(None if partition == _NOBODY else partition, current, messages, first)


def stored(reply: bytes) -> int | None:
    """The stored offset in a reply, which is that of the last message consumed; None: there is none."""
    if not reply:
        return None
    try:
        offset: int = _OFFSETS.unpack(reply)[2]
    except struct.error:
        raise ReplyError(f"an offset's reply has {len(reply)} bytes") from None
    return offset
