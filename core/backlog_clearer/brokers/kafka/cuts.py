"""Positions by time: where the messages of a time begin, and when a message was published.

The times are those of the messages: their producers' (CreateTime), or the broker's where the topic has
`message.timestamp.type=LogAppendTime`. Producers' times may go backwards from one message to the next.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import datetime

from backlog_clearer.brokers.kafka.batch_wire import HEADER_BYTES, CorruptBatchError
from backlog_clearer.brokers.kafka.connection import Connection
from backlog_clearer.brokers.kafka.errors import HeadersUnsupportedError
from backlog_clearer.brokers.kafka.fetch_wire import (
    MIN_VERSION,
    NAMES_ONLY,
    Wanted,
    fetch_request,
    read_partition,
    read_records,
    read_response,
    read_topic,
)
from backlog_clearer.brokers.kafka.figures import OffsetFigures, offset_of
from backlog_clearer.brokers.kafka.leaders import find_leaders, open_connection
from backlog_clearer.brokers.kafka.library import FetchRequest
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.brokers.kafka.socket_settings import SocketSettings, socket_settings
from backlog_clearer.brokers.shared.parallel import in_parallel
from backlog_clearer.brokers.shared.times import from_milliseconds, milliseconds
from backlog_clearer.model import Bound, Cut, Partition, PartitionState

_LOG_APPEND = 0x08  # attribute of a batch: every record has the batch's last time
_TIMES = struct.Struct(">21xh4xqq")  # attributes, [last offset delta], first and last time in ms
_BUDGET_S = 2.0  # for the ages of all partitions: they must not delay a run
_NODES = 8  # brokers that are asked at the same time
_AT_ONCE = 32  # requests under way on one connection, each answered with one batch

NOTE = (
    "A partition's target is its first message with a time at or after the bound, as the broker's index"
    " has it: producers set the times, or the broker does on topics with LogAppendTime. Where they go"
    " backwards, older messages behind the target stay."
)


def cuts(
    states: Sequence[PartitionState],
    bound: Bound,
    first_from: Callable[[Sequence[Partition], int], OffsetFigures],
) -> list[Cut]:
    """See `source.Bounded.cut`; `first_from` asks for the first offsets at a time in milliseconds, or later."""
    if bound.until is None:
        return [Cut(state.partition, _before_end(state, bound.keep_last or 0)) for state in states]
    found, errors = first_from([state.partition for state in states], milliseconds(bound.until))
    return [
        Cut(state.partition, None, str(errors[state.partition]))
        if state.partition in errors
        else _cut(state, found.get(state.partition))
        for state in states
    ]


def _before_end(state: PartitionState, count: int) -> int:
    return max(offset_of(state.start) or 0, (offset_of(state.end) or 0) - count)


def _cut(state: PartitionState, first_young: int | None) -> Cut:
    """The cut before the first message that stays; None: there is none."""
    start, end = offset_of(state.start), offset_of(state.end)
    if first_young is None or (end is not None and first_young >= end):
        return Cut(state.partition, None)
    return Cut(state.partition, first_young, none_older=start is not None and first_young <= start)


def oldest_times(options: KafkaOptions, states: Sequence[PartitionState]) -> dict[Partition, datetime]:
    """The first time in the batch that holds each backlog's first message; see `source.Dated`.

    Raises like `batch_times`.
    """
    wanted = [
        Wanted(state.partition, position) for state in states if (position := _first(state)) is not None
    ]
    return {place.partition: found for place, found in batch_times(options, wanted).items()}


def batch_times(options: KafkaOptions, wanted: Sequence[Wanted]) -> dict[Wanted, datetime]:
    """The first time in the batch that holds each offset, in as many as two seconds allow, in their order.

    One request an offset, which is answered with one batch (KIP-74); many are under way at a time. Nothing is
    known where the header reader cannot log in. Raises `BrokerError`.
    """
    if not wanted:
        return {}
    try:
        settings = socket_settings(options)
        leaders = find_leaders(options, settings, list({place.partition for place in wanted}))
    except HeadersUnsupportedError:
        return {}
    until = time.monotonic() + _BUDGET_S
    by_node: dict[int, list[Wanted]] = {}
    for place in wanted:
        if place.partition in leaders.leaders:
            by_node.setdefault(leaders.leaders[place.partition], []).append(place)
    found: dict[Wanted, datetime] = {}  # also of threads that do not end in time

    def ask(node: int) -> None:
        with closing(open_connection(leaders.nodes[node], options, settings)) as connection:
            found.update(_times(connection, by_node[node], settings, until))

    in_parallel(
        list(by_node),
        lambda: ask,
        where=f"Kafka at {options.place}",
        threads=_NODES,
        timeout_s=_BUDGET_S,
    )
    return dict(found)


def _first(state: PartitionState) -> int | None:
    """The first offset of a backlog."""
    known = (offset_of(state.position), offset_of(state.start))
    return max((offset for offset in known if offset is not None), default=None)


def _times(
    connection: Connection, wanted: Sequence[Wanted], settings: SocketSettings, until: float
) -> Iterator[tuple[Wanted, datetime]]:
    version = connection.version(FetchRequest, MIN_VERSION, NAMES_ONLY)
    for at in range(0, len(wanted), _AT_ONCE):
        if time.monotonic() >= until:
            return
        places = wanted[at : at + _AT_ONCE]
        requests = [
            fetch_request([place], version=version, max_bytes=1, max_wait_ms=0, rack=settings.rack)
            for place in places
        ]
        for place, answer in zip(places, connection.answers(requests, version), strict=True):
            published = batch_time(answer, version)
            if published is not None:
                yield place, published


def batch_time(answer: bytes, version: int) -> datetime | None:
    """The time of the first batch in a Fetch response about one partition; None: it has none. Pure."""
    try:
        head = read_response(answer, 0, len(answer), version)
        topic = head and read_topic(answer, head.at, len(answer), version)
        partition = topic and read_partition(answer, topic.at, len(answer), version)
        if not partition or partition.error:
            return None
        records = read_records(answer, partition.at, len(answer), version)
    except CorruptBatchError:
        return None
    if records is None or len(answer) - records.at < HEADER_BYTES or answer[records.at + 16] != 2:  # noqa: PLR2004 magic
        return None
    attributes, first, last = _TIMES.unpack_from(answer, records.at)
    published = last if attributes & _LOG_APPEND else first
    return from_milliseconds(published)
