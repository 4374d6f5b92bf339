"""Whether the logs still have what was read of them, asked of their leaders (KIP-101, KIP-320).

After an unclean election a log may end before messages that were read, and then grow past them: its
offsets do not show that. A leader answers where the epoch of the batch that was read last ends in
its log (OffsetForLeaderEpoch).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any, NamedTuple

from confluent_kafka import KafkaError

from backlog_clearer.brokers.kafka.connection import Connection
from backlog_clearer.brokers.kafka.errors import HeadersUnsupportedError, translate
from backlog_clearer.brokers.kafka.figures import cut_off
from backlog_clearer.brokers.kafka.leaders import Address, open_connection
from backlog_clearer.brokers.kafka.library import (
    OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
)
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.brokers.kafka.socket_settings import SocketSettings
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Partition

_OLDEST, _NEWEST = (
    2,
    4,
)  # versions: from 2 on with the leader epoch that the client takes for the present one
_ENOUGH_S = 5.0  # leaders that are not asked by then have a transient error


class ReadUpTo(NamedTuple):
    """How far a partition was read, or is to be skipped."""

    offset: int  # the next one
    epoch: int  # leader epoch of the batch before it
    seen: bool = True  # a batch of this epoch was read; else the log may have none


class Doubt(NamedTuple):
    """A partition that has another leader epoch than when it was read."""

    read: ReadUpTo
    epoch: int  # of its leader now
    leader: Address | None


def cut_logs(
    options: KafkaOptions, settings: SocketSettings, doubts: Mapping[Partition, Doubt]
) -> dict[Partition, BrokerError]:
    """The partitions whose logs no longer have what was read, or whose leaders did not answer.

    The former have a `BrokerError`, the latter a `TransientError`.
    """
    begun = time.monotonic()
    faults: dict[Partition, BrokerError] = {}
    led: dict[Address, dict[Partition, Doubt]] = {}
    for partition, doubt in doubts.items():
        if doubt.leader is None:
            faults[partition] = TransientError(
                f"{partition} has no leader at present that confirms what was read.", partition
            )
        else:
            led.setdefault(doubt.leader, {})[partition] = doubt
    for leader, asked in led.items():
        try:
            faults.update(_answered(leader, options, settings, asked, begun + _ENOUGH_S))
        except TransientError as failure:
            faults.update({p: TransientError(str(failure), p) for p in asked})
    return faults


def _answered(
    leader: Address,
    options: KafkaOptions,
    settings: SocketSettings,
    asked: Mapping[Partition, Doubt],
    until: float,
) -> Mapping[Partition, BrokerError]:
    """The faults by one leader's answer; a broker without the request cannot report any."""
    if time.monotonic() > until:
        raise TransientError(f"Kafka at {leader.host}:{leader.port} could not be asked in time.")
    try:
        with closing(open_connection(leader, options, settings)) as connection:
            return _asked(connection, asked, options)
    except HeadersUnsupportedError:
        return {}


def _asked(
    connection: Connection, asked: Mapping[Partition, Doubt], options: KafkaOptions
) -> dict[Partition, BrokerError]:
    version = connection.version(OffsetForLeaderEpochRequest, _OLDEST, _NEWEST)
    topic_of = OffsetForLeaderEpochRequest.OffsetForLeaderTopic
    topics: dict[str, list[Any]] = {}
    for partition, doubt in asked.items():
        topics.setdefault(partition.topic, []).append(
            topic_of.OffsetForLeaderPartition(
                version=version,
                partition=partition.number,
                current_leader_epoch=doubt.epoch,
                leader_epoch=doubt.read.epoch,
            )
        )
    answer = connection.call(
        OffsetForLeaderEpochRequest(
            version=version,
            replica_id=-1,
            topics=[
                topic_of(version=version, topic=topic, partitions=parts)
                for topic, parts in topics.items()
            ],
        ),
        OffsetForLeaderEpochResponse,
        version,
    )
    found = {
        Partition(topic.topic, part.partition): part
        for topic in answer.topics
        for part in topic.partitions
    }
    faults: dict[Partition, BrokerError] = {}
    for partition, (read, _, _) in asked.items():
        part = found.get(partition)
        if part is None or part.error_code:
            doing = f"asking whether {partition} was cut off"
            code = KafkaError.LEADER_NOT_AVAILABLE if part is None else part.error_code
            error = translate(KafkaError(code), doing, options, partition)
            faults[partition] = TransientError(str(error), partition)
        elif (read.seen and part.leader_epoch != read.epoch) or part.end_offset < read.offset:
            faults[partition] = cut_off(partition, read.offset)
    return faults
