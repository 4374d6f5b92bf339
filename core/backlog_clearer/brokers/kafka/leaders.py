"""Which broker leads which partition, and where a log starts and ends, without librdkafka."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import KafkaError

from backlog_clearer.brokers.kafka.connection import MOST_DECODED, Connection
from backlog_clearer.brokers.kafka.errors import translate
from backlog_clearer.brokers.kafka.figures import contradiction, not_an_offset
from backlog_clearer.brokers.kafka.library import (
    ListOffsetsRequest,
    ListOffsetsResponse,
    MetadataRequest,
    MetadataResponse,
)
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.brokers.kafka.socket_settings import SocketSettings
from backlog_clearer.errors import TransientError
from backlog_clearer.model import Partition

_Answer = TypeVar("_Answer")

_PORT = 9092  # librdkafka's default
_EARLIEST, _LATEST = -2, -1  # timestamps with a special meaning (Kafka protocol guide)


class Address(NamedTuple):
    """Where a broker listens."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Leaders:
    """The brokers, and the leader of each partition that has one."""

    nodes: Mapping[int, Address]
    leaders: Mapping[Partition, int]
    lacking: Mapping[Partition, TransientError]  # why the others cannot be read at present


def parse_address(text: str) -> Address:
    """`HOST[:PORT]`, as librdkafka takes it: a protocol before it is ignored, IPv6 is in brackets."""
    rest = text.rpartition("://")[2]
    if rest.startswith("["):
        host, _, port = rest[1:].partition("]")
        port = port.lstrip(":")
    else:
        host, _, port = rest.partition(":")
    return Address(host, int(port) if port.isdigit() else _PORT)


def open_connection(address: Address, options: KafkaOptions, settings: SocketSettings) -> Connection:
    """A connection that is logged in; raises like `Connection`."""
    return Connection(address.host, address.port, options, settings)


def find_leaders(
    options: KafkaOptions, settings: SocketSettings, partitions: Sequence[Partition]
) -> Leaders:
    """Ask the first bootstrap server that answers; creates no topic.

    Raises `TransientError` if none answers or no partition has a leader at present, `BrokerError`, or
    `HeadersUnsupportedError`.
    """
    return first_answer(options, settings, lambda made: _metadata(made, options, partitions))


def first_answer(
    options: KafkaOptions, settings: SocketSettings, ask: Callable[[Connection], _Answer]
) -> _Answer:
    """The answer of the first bootstrap server that gives one; raises like `ask`, and `open_connection`."""
    failure = TransientError("No bootstrap server is given.")
    for text in options.bootstrap_servers:
        try:
            connection = open_connection(parse_address(text), options, settings)
        except TransientError as error:
            failure = error
            continue
        try:
            return ask(connection)
        except TransientError as error:
            failure = error
        finally:
            connection.close()
    raise failure


def _metadata(
    connection: Connection, options: KafkaOptions, partitions: Sequence[Partition]
) -> Leaders:
    version = connection.version(MetadataRequest, 4, 8)
    topics = sorted({partition.topic for partition in partitions})
    answer = connection.call(
        MetadataRequest(
            version=version,
            topics=[MetadataRequest.MetadataRequestTopic(version=version, name=t) for t in topics],
            allow_auto_topic_creation=False,
        ),
        MetadataResponse,
        version,
        most=MOST_DECODED,
    )
    nodes = {broker.node_id: Address(broker.host, broker.port) for broker in answer.brokers}
    found = {
        Partition(topic.name, part.partition_index): (
            topic.error_code or part.error_code,
            part.leader_id,
        )
        for topic in answer.topics
        for part in topic.partitions
    }
    broken = {topic.name: topic.error_code for topic in answer.topics if topic.error_code}
    for partition in partitions:
        missing = (broken.get(partition.topic, KafkaError.UNKNOWN_TOPIC_OR_PART), -1)
        found.setdefault(partition, missing)
    return leaders_among(nodes, {partition: found[partition] for partition in partitions}, options)


def leaders_among(
    nodes: Mapping[int, Address], found: Mapping[Partition, tuple[int, int]], options: KafkaOptions
) -> Leaders:
    """The leaders of partitions by the error code (0: none) and the leader's node id of each: pure.

    Raises `TransientError` if none has a leader among the nodes.
    """
    leaders: dict[Partition, int] = {}
    lacking: dict[Partition, TransientError] = {}
    for partition, (error, leader) in found.items():
        if leader in nodes:
            leaders[partition] = leader
        else:
            reason = translate(
                KafkaError(error or KafkaError.LEADER_NOT_AVAILABLE),
                f"finding the leader of {partition}",
                options,
                partition,
            )
            lacking[partition] = TransientError(str(reason), partition)
    if not leaders:
        raise next(iter(lacking.values()))
    return Leaders(nodes, leaders, lacking)


def log_bounds(
    connection: Connection, partitions: Sequence[Partition], options: KafkaOptions
) -> Mapping[Partition, tuple[int, int]]:
    """(log start, high watermark) of partitions that this broker leads.

    Raises `TransientError` or `BrokerError` naming the partition, also where a figure is missing or is
    not an offset.
    """
    if not partitions:
        return {}
    starts = _offsets(connection, partitions, "log start", _EARLIEST, options)
    ends = _offsets(connection, partitions, "log end", _LATEST, options)
    for partition in partitions:
        error = contradiction(partition, None, starts[partition], ends[partition])
        if error is not None:
            raise error
    return {partition: (starts[partition], ends[partition]) for partition in partitions}


def _offsets(
    connection: Connection,
    partitions: Sequence[Partition],
    name: str,
    when: int,
    options: KafkaOptions,
) -> Mapping[Partition, int]:
    version = connection.version(ListOffsetsRequest, 1, 4)
    topic_of = ListOffsetsRequest.ListOffsetsTopic
    topics: dict[str, list[Any]] = {}
    for partition in partitions:
        topics.setdefault(partition.topic, []).append(
            topic_of.ListOffsetsPartition(
                version=version,
                partition_index=partition.number,
                current_leader_epoch=-1,
                timestamp=when,
            )
        )
    answer = connection.call(
        ListOffsetsRequest(
            version=version,
            replica_id=-1,
            isolation_level=0,
            topics=[
                topic_of(version=version, name=topic, partitions=parts)
                for topic, parts in topics.items()
            ],
        ),
        ListOffsetsResponse,
        version,
    )
    found = {}
    for topic in answer.topics:
        for part in topic.partitions:
            partition = Partition(topic.name, part.partition_index)
            if part.error_code:
                doing = f"asking for the {name} of {partition}"
                raise translate(KafkaError(part.error_code), doing, options, partition)
            found[partition] = part.offset
    for partition in partitions:
        if found.get(partition, -1) < 0:
            raise not_an_offset(partition, found.get(partition), name)
    return found
