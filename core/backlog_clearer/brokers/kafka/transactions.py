"""Which open transactions may have offsets of a group pending (KIP-664)."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from confluent_kafka import KafkaError
from kafka.protocol.admin.transactions import (
    DescribeTransactionsRequest,
    DescribeTransactionsResponse,
    ListTransactionsRequest,
    ListTransactionsResponse,
)
from kafka.protocol.metadata.metadata import MetadataRequest, MetadataResponse

from backlog_clearer.brokers.kafka.connection import MOST_DECODED, Connection
from backlog_clearer.brokers.kafka.errors import HeadersUnsupportedError, translate
from backlog_clearer.brokers.kafka.leaders import Address, first_answer, open_connection
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.brokers.kafka.socket_settings import socket_settings
from backlog_clearer.errors import BrokerError

_OFFSETS = "__consumer_offsets"


def open_transactions(options: KafkaOptions) -> list[str]:
    """Ids of open transactions that wrote to the partition in which the group's offsets are, sorted.

    That is the nearest that the protocol shows. Empty where the broker does not show it (before 3.0, or
    without the permission DESCRIBE on the transactional ids).
    """
    try:
        settings = socket_settings(options)
        nodes, count = first_answer(options, settings, lambda made: _nodes(made, options))
        number = offsets_partition(options.group_id, count)
        found: set[str] = set()
        for node in nodes:
            with closing(open_connection(node, options, settings)) as connection:
                found.update(_on(connection, number))
    except (BrokerError, HeadersUnsupportedError):
        return []
    return sorted(found)


def offsets_partition(group: str, count: int) -> int:
    """The partition of `__consumer_offsets` that has a group's offsets: Java's hash of its name, modulo."""
    units = group.encode("utf-16-be")
    value = 0
    for high, low in zip(units[::2], units[1::2], strict=True):
        value = (31 * value + (high << 8 | low)) & 0xFFFFFFFF
    signed = value - (1 << 32) if value >> 31 else value
    return 0 if signed == -(1 << 31) else abs(signed) % count  # as `Utils.abs` of Kafka has it


def _nodes(connection: Connection, options: KafkaOptions) -> tuple[list[Address], int]:
    """Every broker's address, and how many partitions `__consumer_offsets` has."""
    version = connection.version(MetadataRequest, 4, 8)
    topic = MetadataRequest.MetadataRequestTopic(version=version, name=_OFFSETS)
    answer = connection.call(
        MetadataRequest(version=version, topics=[topic], allow_auto_topic_creation=False),
        MetadataResponse,
        version,
        most=MOST_DECODED,
    )
    partitions: list[Any] = [part for found in answer.topics for part in found.partitions]
    if not partitions:
        raise translate(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART), f"describing {_OFFSETS}", options)
    return [Address(broker.host, broker.port) for broker in answer.brokers], len(partitions)


def _on(connection: Connection, number: int) -> list[str]:
    """The transactions that this broker coordinates and that wrote to that offsets partition."""
    version = connection.version(ListTransactionsRequest, 0, 0)
    answer = connection.call(
        ListTransactionsRequest(version=version, state_filters=["Ongoing"], producer_id_filters=[]),
        ListTransactionsResponse,
        version,
        most=MOST_DECODED,
    )
    names = [state.transactional_id for state in answer.transaction_states]
    if not names:
        return []
    version = connection.version(DescribeTransactionsRequest, 0, 0)
    answer = connection.call(
        DescribeTransactionsRequest(version=version, transactional_ids=names),
        DescribeTransactionsResponse,
        version,
        most=MOST_DECODED,
    )
    return [
        state.transactional_id
        for state in answer.transaction_states
        for topic in state.topics
        if topic.topic == _OFFSETS and number in topic.partitions
    ]
