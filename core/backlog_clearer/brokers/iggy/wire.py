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

MAX_OFFSET = 2**63 - 1
"""Offsets and counts beyond this are refused as impossible: unset and negative numbers look like that."""

_HEAD = struct.Struct("<IQI")  # partition, its current offset, messages in this reply
_BATCH_BYTES = 256  # header of a batch
_BASE_OFFSET_AT = 8  # in it, after the partition's id
_DELTA_AT = 24  # in a message's header, after checksum and id
POLLED_BYTES = _HEAD.size + _BATCH_BYTES + _DELTA_AT + 4
"""The first bytes of a reply that `polled` needs, at most."""
_PROTOCOL = 11 << 10  # 0.11.0, packed in 10 bits each
_NODE = struct.Struct("<H6xBB")  # port of TCP, role, status
_LEADER = _HEALTHY = 0
_OFFSETS = struct.Struct("<IQQ")  # partition, its current offset, the stored one
_UNROUTED = 0xFFFFFFFF  # the partition in a reply to a request that reached no partition


class ReplyError(ValueError):
    """A reply that the protocol does not allow, or whose figures are impossible."""


class Polled(NamedTuple):
    """The head of a poll's reply."""

    partition: int | None  # None: the server did not read any
    current: int  # offset of the partition's last message
    messages: int
    first: int | None  # offset of the first message in it; None: there is none


class StoredOffset(NamedTuple):
    """A consumer's or a group's stored offset in one partition."""

    partition: int
    current: int  # offset of the partition's last message, at the same moment
    offset: int  # of the last message consumed


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
    credentials = [secret] if user is None else [user, secret]
    texts = ("backlog-clearer", __version__, *credentials)
    return struct.pack("<I", _PROTOCOL) + b"".join(map(_text, texts)) + bytes(4)


def leader(reply: bytes) -> tuple[str, int] | None:
    """IP address and TCP port of a cluster's leader; None: a single node, or no leader is known.

    Raises `ReplyError`.
    """
    try:
        (size,) = struct.unpack_from("<I", reply)
        (count,) = struct.unpack_from("<I", reply, 4 + size)
        at = 8 + size
        for _ in range(count if count > 1 else 0):
            (size,) = struct.unpack_from("<I", reply, at)
            (length,) = struct.unpack_from("<I", reply, at + 4 + size)
            end = at + 8 + size + length
            port, role, status = _NODE.unpack_from(reply, end)
            if (role, status) == (_LEADER, _HEALTHY):
                return reply[end - length : end].decode(), port
            at = end + _NODE.size
    except (struct.error, UnicodeDecodeError):
        raise ReplyError(f"a cluster's description has {len(reply)} bytes") from None
    return None


def subject(kind: int, consumer: str, stream: str, topic: str) -> bytes:
    """The consumer and the topic of a request: every command of this file begins with them."""
    return bytes((kind,)) + b"".join(map(identifier, (consumer, stream, topic)))


def poll(who: bytes, partition: int, offset: int, count: int) -> bytes:
    """Ask for `count` messages from `offset` on; the server stores nothing for it."""
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


def polled(reply: bytes, asked: int) -> Polled:
    """The head of a reply to a poll for `asked` messages; raises `ReplyError`."""
    try:
        partition, current, messages = _HEAD.unpack_from(reply)
        first = None
        if messages:
            (base,) = struct.unpack_from("<Q", reply, _HEAD.size + _BASE_OFFSET_AT)
            (delta,) = struct.unpack_from("<I", reply, _HEAD.size + _BATCH_BYTES + _DELTA_AT)
            first = base + delta
    except struct.error:
        raise ReplyError(f"a poll's reply of {len(reply)} bytes ends too early") from None
    if partition == _UNROUTED:
        return Polled(None, current, messages, first)
    # `first` may not exceed `current`, which the server reads first; the last message may.
    if current > MAX_OFFSET or messages > asked or (first is not None and first > current):
        raise ReplyError(
            f"a poll for {asked} messages was answered with {messages} from offset {first} on, of a"
            f" partition that ends at {current}"
        )
    return Polled(partition, current, messages, first)


def stored(reply: bytes) -> StoredOffset | None:
    """The stored offset in a reply; None: there is none. Raises `ReplyError`."""
    if not reply:
        return None
    try:
        found = StoredOffset(*_OFFSETS.unpack(reply))
    except struct.error:
        raise ReplyError(f"a stored offset's reply has {len(reply)} bytes") from None
    if found.partition == _UNROUTED or max(found.current, found.offset) > MAX_OFFSET:
        raise ReplyError(
            f"a stored offset's reply names partition {found.partition}, its end {found.current} and"
            f" offset {found.offset}"
        )
    return found
