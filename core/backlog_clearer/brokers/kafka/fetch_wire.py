"""Fetch requests, and the fields of their responses, without parsing the records.

Versions 4 to 11 of the Fetch API (Kafka protocol guide; KIP-98 to KIP-392), which every broker from
0.11 to 4.x answers (KIP-896): they name topics, need neither topic ids nor flexible encoding, and 11
has racks. Requests are encoded by kafka-python; responses are read here, since every library's
decoder would copy the records, which is what a count by headers avoids.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from kafka.protocol.consumer import FetchRequest

from backlog_clearer.brokers.kafka.batch_wire import Buffer, CorruptBatchError
from backlog_clearer.model import Partition

MIN_VERSION, MAX_VERSION = 4, 11
_SESSIONS = 7  # first version with fetch sessions
_LOG_START = 5  # first version with the log start
_READ_REPLICA = 11  # first version with the replica to read from (KIP-392)

_INT32 = struct.Struct(">i")
_INT16 = struct.Struct(">h")
_SESSION = struct.Struct(">hi")
_PARTITION = struct.Struct(">ihqq")  # number, error, high watermark, last stable offset
_INT64 = struct.Struct(">q")
_ABORTED_BYTES = 16  # an aborted transaction: producer id and first offset


class Wanted(NamedTuple):
    """The offset to read one partition from."""

    partition: Partition
    offset: int


class Fetched(NamedTuple):
    """One partition of a response; its records are `data[start:end]` of that response."""

    partition: Partition
    error: int  # Kafka's error code; 0: none
    high_watermark: int
    read_replica: int  # node id to read from instead; -1: this one
    start: int
    end: int


class ResponseHead(NamedTuple):
    """The fields of a response before its topics."""

    throttle_ms: int
    error: int
    at: int  # where its topics start


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


def response_head(data: Buffer, end: int, version: int) -> ResponseHead:
    """Read the first fields of a response without its header; raises `CorruptBatchError`."""
    try:
        _check(end, len(data))
        (throttle_ms,) = _INT32.unpack_from(data, 0)
        if version < _SESSIONS:
            return ResponseHead(throttle_ms, 0, 4)
        error, _ = _SESSION.unpack_from(data, 4)
        return ResponseHead(throttle_ms, error, 10)
    except struct.error as error:
        raise CorruptBatchError(f"a Fetch response of {end} bytes has no head") from error


def response_partitions(data: Buffer, at: int, end: int, version: int) -> Iterator[Fetched]:
    """Read the partitions of a response, from `at` on; raises `CorruptBatchError`."""
    try:
        _check(end, len(data))
        topics, at = _count(data, at, end)
        for _ in range(topics):
            (size,) = _INT16.unpack_from(data, at)
            at = _within(at + 2 + size, end, size)
            topic = str(bytes(data[at - size : at]), "utf-8")
            numbers, at = _count(data, at, end)
            for _ in range(numbers):
                fetched = _partition(data, at, end, version, topic)
                yield fetched
                at = fetched.end
    except (struct.error, UnicodeDecodeError) as error:
        raise CorruptBatchError(f"a Fetch response ends at byte {at} of {end}: {error}") from error


def _partition(data: Buffer, at: int, end: int, version: int, topic: str) -> Fetched:
    number, error, high_watermark, _ = _PARTITION.unpack_from(data, at)
    at += _PARTITION.size
    if version >= _LOG_START:
        at += 8
    (aborted,) = _INT32.unpack_from(data, at)
    aborted = max(aborted, 0)
    at = _within(at + 4 + aborted * _ABORTED_BYTES, end, aborted)
    replica = -1
    if version >= _READ_REPLICA:
        (replica,) = _INT32.unpack_from(data, at)
        at += 4
    (size,) = _INT32.unpack_from(data, at)
    size = max(size, 0)  # -1: no records
    start = at + 4
    return Fetched(
        Partition(topic, number),
        error,
        high_watermark,
        replica,
        start,
        _within(start + size, end, size),
    )


def _count(data: Buffer, at: int, end: int) -> tuple[int, int]:
    """An array's length, and where its elements start."""
    (count,) = _INT32.unpack_from(data, at)
    return max(count, 0), _within(at + 4, end, 0)


def _within(at: int, end: int, size: int) -> int:
    if size < 0 or at > end:
        raise CorruptBatchError(f"a Fetch response of {end} bytes points to byte {at}")
    return at


def _check(end: int, size: int) -> None:
    if not 0 <= end <= size:
        raise CorruptBatchError(f"a Fetch response of {end} bytes in a buffer of {size}")
