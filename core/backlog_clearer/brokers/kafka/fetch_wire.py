"""Fetch requests, and the fields of their responses around the records.

Versions 4 to 13 of the Fetch API (Kafka protocol guide; KIP-98 to KIP-516): brokers from 0.11 to 4.x
answer 11 (KIP-896), which has racks and names topics. From 12 on, encoding is flexible (KIP-482) and
a broker compares the epoch of the last batch read with its log (KIP-595); 13 has topic ids instead of names,
so that the broker itself refuses a topic that was created again. Responses are read here, since every
library's decoder would copy the records, which is what a count by headers avoids. Requests are encoded here,
because kafka-python compiles its encoder of a version at the first use, which takes 1 MB in a lane's thread;
what it encodes is what tests compare with.

Each `read_...` returns None where the bytes `data[at:end]` do not hold all of its fields yet, and
raises `CorruptBatchError` where they cannot be right. A topic's key is its name, or from 13 on its id.
"""

from __future__ import annotations

import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from backlog_clearer.brokers.kafka.batch_wire import Buffer, CorruptBatchError
from backlog_clearer.model import Partition

MIN_VERSION, MAX_VERSION = 4, 13
TOPIC_IDS = 13  # first version with topic ids (KIP-516)
FLEXIBLE = 12  # first version with compact lengths and tagged fields, and with epochs of what was read
NAMES_ONLY = 11  # what is used where no topic ids are known
SMALLEST_BYTES = 8  # of a response: a throttle time, and that there are no topics
_SESSIONS = 7  # first version with fetch sessions
_LOG_START = 5  # first version with the log start
_EPOCHS = 9  # first version with the leader epoch that a reader has heard of (KIP-320)
_READ_REPLICA = 11  # first version with racks, and with the replica to read from (KIP-392)

_INT64 = struct.Struct(">q")
_INT32 = struct.Struct(">i")
_INT16 = struct.Struct(">h")
_FETCH = 1  # the API's key
_HEADER = struct.Struct(">hhih")  # the API, its version, correlation id, length of the client's name
_REQUEST = struct.Struct(">iiiib")  # replica, longest wait in ms, least and most bytes, isolation level
_NO_SESSION = struct.pack(">ii", 0, -1)  # id and epoch
_ANY_EPOCH = _INT32.pack(-1)
_NO_START = _INT64.pack(-1)
_SESSION = struct.Struct(">ihi")  # throttle time, error, session id
_PARTITION = struct.Struct(">ihqq")  # number, error, high watermark, last stable offset
_DIVERGING = struct.Struct(">iq")  # an epoch, and where it ends in the broker's log
_DIVERGING_TAG = 0
_ABORTED_BYTES = 16  # an aborted transaction: producer id and first offset
_ID_BYTES = 16
_MOST_TAGS = 16
_MOST_TAG_BYTES = 1024  # brokers send 12 and 8, and neither to a consumer that is up to date


class Wanted(NamedTuple):
    """The offset to read one partition from."""

    partition: Partition
    offset: int
    last_epoch: int = -1  # leader epoch of the batch before the offset; -1: not known


class ResponseHead(NamedTuple):
    """The fields of a response before its topics."""

    throttle_ms: int
    error: int
    topics: int
    at: int  # where the topics start


class TopicHead(NamedTuple):
    """The fields of a topic before its partitions."""

    topic: str
    partitions: int
    at: int  # where the partitions start


class PartitionHead(NamedTuple):
    """The fields of a partition before its aborted transactions, which are not read."""

    number: int
    error: int  # Kafka's error code; 0: none
    high_watermark: int
    at: int  # where the rest of its fields starts; may lie beyond the bytes that are there


class PartitionTail(NamedTuple):
    """The tagged fields behind a partition's records, or those of a topic or a whole response."""

    diverging: (
        int | None
    )  # where the log ends that the reader has in common with the broker; None: no end
    at: int


class RecordsHead(NamedTuple):
    """The fields of a partition between its aborted transactions and its records."""

    read_replica: int  # node id to read from instead; -1: this one
    size: int  # of the records, in bytes
    at: int  # where the records start


def topic_id(incarnation: str) -> UUID:
    """A topic's id from its text, which is URL-safe base64 without padding."""
    return UUID(bytes=urlsafe_b64decode(f"{incarnation}=="))


def fetch_request(
    wanted: Sequence[Wanted],
    *,
    version: int,
    max_bytes: int,
    max_wait_ms: int,
    rack: str,
    incarnations: Mapping[str, str] | None = None,
) -> bytes:
    """A Fetch request outside of any session, for uncommitted data too; without its header.

    `incarnations`: the id of each topic as text; needed from `TOPIC_IDS` on.
    """
    topics: dict[str, list[Wanted]] = {}
    for each in wanted:
        topics.setdefault(each.partition.topic, []).append(each)
    made = [_REQUEST.pack(-1, max_wait_ms, 1, max_bytes, 0)]  # no replica, one byte at least
    if version >= _SESSIONS:
        made.append(_NO_SESSION)
    made.append(_counted(len(topics), version))
    for topic, places in topics.items():
        if version >= TOPIC_IDS:
            made.append(topic_id((incarnations or {})[topic]).bytes)
        else:
            made.append(_text(topic, version))
        made.append(_counted(len(places), version))
        made += [_requested(place, max_bytes, version) for place in places]
        made.append(_no_tags(version))
    if version >= _SESSIONS:
        made.append(_counted(0, version))  # topics that a session leaves out from now on
    if version >= _READ_REPLICA:
        made.append(_text(rack, version))
    made.append(_no_tags(version))
    return b"".join(made)


def framed(request: bytes, version: int, correlation: int, client_id: str) -> bytes:
    """A Fetch request with its size and its header, which are those of any request."""
    client = client_id.encode()
    header = _HEADER.pack(_FETCH, version, correlation, len(client)) + client + _no_tags(version)
    return _INT32.pack(len(header) + len(request)) + header + request


def _requested(place: Wanted, max_bytes: int, version: int) -> bytes:
    """One partition of a request."""
    epoch = _ANY_EPOCH if version >= _EPOCHS else b""
    read = _INT32.pack(place.last_epoch) if version >= FLEXIBLE else b""
    start = _NO_START if version >= _LOG_START else b""
    number, offset = _INT32.pack(place.partition.number), _INT64.pack(place.offset)
    return b"".join((number, epoch, offset, read, start, _INT32.pack(max_bytes), _no_tags(version)))


def _counted(count: int, version: int) -> bytes:
    """The length of an array, or from `FLEXIBLE` on of any text, too."""
    if version < FLEXIBLE:
        return _INT32.pack(count)
    made, left = bytearray(), count + 1
    while left >= 0x80:  # noqa: PLR2004 the bit for "more follows"
        made.append(left & 0x7F | 0x80)
        left >>= 7
    made.append(left)
    return bytes(made)


def _text(text: str, version: int) -> bytes:
    data = text.encode()
    length = _counted(len(data), version) if version >= FLEXIBLE else _INT16.pack(len(data))
    return length + data


def _no_tags(version: int) -> bytes:
    return b"\0" if version >= FLEXIBLE else b""


def read_response(data: Buffer, at: int, end: int, version: int) -> ResponseHead | None:
    """The first fields of a response, with the tagged fields of its header where the version has them."""
    if version >= FLEXIBLE:
        if at == end:
            return None
        if data[at]:
            raise CorruptBatchError("a Fetch response whose header has tagged fields")
        at += 1
    error, size = 0, _INT32.size if version < _SESSIONS else _SESSION.size
    counted = _count(data, at + size, end, version)
    if counted is None:
        return None
    if version < _SESSIONS:
        (throttle_ms,) = _INT32.unpack_from(data, at)
    else:
        throttle_ms, error, _ = _SESSION.unpack_from(data, at)
    return ResponseHead(throttle_ms, error, *counted)


def read_topic(data: Buffer, at: int, end: int, version: int) -> TopicHead | None:
    """The fields of a topic; `at`: where it starts."""
    size: int | None = _ID_BYTES
    if version < FLEXIBLE:
        if end - at < _INT16.size:
            return None
        (size,) = _INT16.unpack_from(data, at)
        at += _INT16.size
        if size is not None and size < 0:
            raise CorruptBatchError(f"a topic name of {size} bytes")
    elif version < TOPIC_IDS:
        length = _count(data, at, end, version)
        size, at = length or (None, at)
        if size is not None and size > _MOST_TAG_BYTES:
            raise CorruptBatchError(f"a topic name of {size} bytes")
    if size is None:
        return None
    counted = _count(data, at + size, end, version)
    if counted is None:
        return None
    key = bytes(data[at : at + size])
    if version >= TOPIC_IDS:
        return TopicHead(urlsafe_b64encode(key).decode().rstrip("="), *counted)
    try:
        return TopicHead(str(key, "utf-8"), *counted)
    except UnicodeDecodeError as error:
        raise CorruptBatchError(f"a topic name that is not valid: {error}") from error


def read_partition(data: Buffer, at: int, end: int, version: int) -> PartitionHead | None:
    """The first fields of a partition; `at`: where it starts."""
    size = _PARTITION.size + (8 if version >= _LOG_START else 0)
    counted = _count(data, at + size, end, version)
    if counted is None:
        return None
    number, error, high_watermark, _ = _PARTITION.unpack_from(data, at)
    aborted, at = counted
    each = _ABORTED_BYTES + (version >= FLEXIBLE)  # with the byte for no tagged fields
    return PartitionHead(number, error, high_watermark, at + aborted * each)


def read_records(data: Buffer, at: int, end: int, version: int) -> RecordsHead | None:
    """The fields that follow a partition's aborted transactions."""
    replica, size = -1, 4 if version >= _READ_REPLICA else 0
    counted = _count(data, at + size, end, version)  # null: no records
    if counted is None:
        return None
    if size:
        (replica,) = _INT32.unpack_from(data, at)
    return RecordsHead(replica, *counted)


def read_tail(data: Buffer, at: int, end: int) -> PartitionTail | None:
    """The tagged fields at the end of a partition, a topic or a response, from `FLEXIBLE` on."""
    diverging = None
    found = _uvarint(data, at, end)
    if found is None:
        return None
    tags, at = found
    if tags > _MOST_TAGS:
        raise CorruptBatchError(f"{tags} tagged fields")
    for _ in range(tags):
        found = _uvarint(data, at, end)
        sized = found and _uvarint(data, found[1], end)
        if found is None or sized is None:
            return None
        size, at = sized
        if size > _MOST_TAG_BYTES:
            raise CorruptBatchError(f"a tagged field of {size} bytes")
        if end - at < size:
            return None
        if found[0] == _DIVERGING_TAG and size >= _DIVERGING.size:
            _, diverging = _DIVERGING.unpack_from(data, at)
        at += size
    return PartitionTail(diverging, at)


def _count(data: Buffer, at: int, end: int, version: int) -> tuple[int, int] | None:
    """A length, 0 where it is null, and where what it counts starts; None: not all of it is there."""
    if version >= FLEXIBLE:
        found = _uvarint(data, at, end)
        return None if found is None else (max(found[0] - 1, 0), found[1])
    if end - at < _INT32.size:
        return None
    (count,) = _INT32.unpack_from(data, at)
    return max(count, 0), at + _INT32.size


def _uvarint(data: Buffer, at: int, end: int) -> tuple[int, int] | None:
    """An unsigned number in groups of seven bits, and where it ends; None: not all of it is there."""
    value = 0
    for shift in range(0, 35, 7):
        if at >= end:
            return None
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 the bit for "more follows"
            return value, at
    raise CorruptBatchError("a length of more than five bytes")
