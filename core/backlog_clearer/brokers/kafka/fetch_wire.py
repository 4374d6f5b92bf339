"""Fetch requests, and the fields of their responses around the records.

Versions 4 to 11 of the Fetch API (Kafka protocol guide; KIP-98 to KIP-392), which every broker from
0.11 to 4.x answers (KIP-896): they name topics, need neither topic ids nor flexible encoding, and 11
has racks. Requests are encoded by kafka-python; responses are read here, since every library's
decoder would copy the records, which is what a count by headers avoids.

Each `read_...` returns None where the bytes `data[at:end]` do not hold all of its fields yet, and
raises `CorruptBatchError` where they cannot be right. A topic's key is its name.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from kafka.protocol.consumer import FetchRequest

from backlog_clearer.brokers.kafka.batch_wire import Buffer, CorruptBatchError
from backlog_clearer.model import Partition

MIN_VERSION, MAX_VERSION = 4, 11
SMALLEST_BYTES = 8  # of a response: a throttle time, and that there are no topics
_SESSIONS = 7  # first version with fetch sessions
_LOG_START = 5  # first version with the log start
_READ_REPLICA = 11  # first version with the replica to read from (KIP-392)

_INT32 = struct.Struct(">i")
_INT16 = struct.Struct(">h")
_SESSION = struct.Struct(">ihi")  # throttle time, error, session id
_PARTITION = struct.Struct(">ihqq")  # number, error, high watermark, last stable offset
_ABORTED_BYTES = 16  # an aborted transaction: producer id and first offset


class Wanted(NamedTuple):
    """The offset to read one partition from."""

    partition: Partition
    offset: int


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


class RecordsHead(NamedTuple):
    """The fields of a partition between its aborted transactions and its records."""

    read_replica: int  # node id to read from instead; -1: this one
    size: int  # of the records, in bytes
    at: int  # where the records start


def fetch_request(
    wanted: Sequence[Wanted], *, version: int, max_bytes: int, max_wait_ms: int, rack: str
) -> Any:
    """A Fetch request outside of any session, for uncommitted data too."""
    topics: dict[str, list[Any]] = {}
    topic_of = FetchRequest.FetchTopic
    for (topic, number), offset in wanted:
        topics.setdefault(topic, []).append(
            topic_of.FetchPartition(
                version=version,
                partition=number,
                current_leader_epoch=-1,
                fetch_offset=offset,
                log_start_offset=-1,
                partition_max_bytes=max_bytes,
            )
        )
    return FetchRequest(
        version=version,
        replica_id=-1,
        max_wait_ms=max_wait_ms,
        min_bytes=1,
        max_bytes=max_bytes,
        isolation_level=0,
        session_id=0,
        session_epoch=-1,
        topics=[
            topic_of(version=version, topic=topic, partitions=partitions)
            for topic, partitions in topics.items()
        ],
        forgotten_topics_data=[],
        rack_id=rack,
    )


def read_response(data: Buffer, at: int, end: int, version: int) -> ResponseHead | None:
    """The first fields of a response without its header."""
    error, size = 0, _INT32.size if version < _SESSIONS else _SESSION.size
    if end - at < size + _INT32.size:
        return None
    if version < _SESSIONS:
        (throttle_ms,) = _INT32.unpack_from(data, at)
    else:
        throttle_ms, error, _ = _SESSION.unpack_from(data, at)
    topics, at = _count(data, at + size)
    return ResponseHead(throttle_ms, error, topics, at)


def read_topic(data: Buffer, at: int, end: int, version: int) -> TopicHead | None:
    """The fields of a topic; `at`: where it starts."""
    del version  # versions 4 to 11 do not differ here
    if end - at < _INT16.size:
        return None
    (size,) = _INT16.unpack_from(data, at)
    if size < 0:
        raise CorruptBatchError(f"a topic name of {size} bytes")
    at += _INT16.size
    if end - at < size + _INT32.size:
        return None
    try:
        topic = str(bytes(data[at : at + size]), "utf-8")
    except UnicodeDecodeError as error:
        raise CorruptBatchError(f"a topic name that is not valid: {error}") from error
    partitions, at = _count(data, at + size)
    return TopicHead(topic, partitions, at)


def read_partition(data: Buffer, at: int, end: int, version: int) -> PartitionHead | None:
    """The first fields of a partition; `at`: where it starts."""
    size = _PARTITION.size + (8 if version >= _LOG_START else 0)
    if end - at < size + _INT32.size:
        return None
    number, error, high_watermark, _ = _PARTITION.unpack_from(data, at)
    aborted, at = _count(data, at + size)
    return PartitionHead(number, error, high_watermark, at + aborted * _ABORTED_BYTES)


def read_records(data: Buffer, at: int, end: int, version: int) -> RecordsHead | None:
    """The fields that follow a partition's aborted transactions."""
    replica, size = -1, 4 if version >= _READ_REPLICA else 0
    if end - at < size + _INT32.size:
        return None
    if size:
        (replica,) = _INT32.unpack_from(data, at)
    length, at = _count(data, at + size)  # -1: no records
    return RecordsHead(replica, length, at)


def _count(data: Buffer, at: int) -> tuple[int, int]:
    """A length, 0 where it is negative, which means null; and where what it counts starts."""
    (count,) = _INT32.unpack_from(data, at)
    return max(count, 0), at + _INT32.size
