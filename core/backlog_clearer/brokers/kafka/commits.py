"""Writing a group's offsets with topic ids, so that the broker refuses a topic that was created again.

OffsetCommit v10 names topics by their ids only (KIP-848; Kafka 4.2 offers it). librdkafka and Kafka's older
versions name them by name, and write an offset to whatever topic has that name at the moment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from typing import Any

from confluent_kafka import KafkaError

from backlog_clearer.brokers.kafka.connection import Connection
from backlog_clearer.brokers.kafka.coordinator import find_coordinator
from backlog_clearer.brokers.kafka.errors import HeadersUnsupportedError, is_transient, translate
from backlog_clearer.brokers.kafka.fetch_wire import topic_id
from backlog_clearer.brokers.kafka.figures import OffsetFigures, Stored, not_an_offset
from backlog_clearer.brokers.kafka.incarnations import Incarnations
from backlog_clearer.brokers.kafka.leaders import Address, open_connection
from backlog_clearer.brokers.kafka.library import OffsetCommitRequest, OffsetCommitResponse
from backlog_clearer.brokers.kafka.metadata import COMMIT_BY_ID
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.brokers.kafka.positions import GroupOffsets, partition_error
from backlog_clearer.brokers.kafka.socket_settings import socket_settings
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Partition

_DOING = "committing offsets"
IDLE_S = 30.0
"""How long a connection is kept: networks and brokers (connections.max.idle.ms) cut idle ones after minutes."""
ANSWERED_S = 7.0
"""A coordinator writes or gives up within 5 s (offsets.commit.timeout.ms), and answers then."""

Incarnation = Mapping[Partition, str | None]
"""The topic id of each partition as text, as it was surveyed or recorded; None: not known."""


class IdCommits:
    """Where a group's coordinator takes topic ids, and writes with them; shared by the lanes of a source."""

    def __init__(self, options: KafkaOptions, logs: Incarnations, offered: Callable[[], bool]) -> None:
        """`offered`: whether the broker that was asked for topics has OffsetCommit v10."""
        self._options = options
        self.logs = logs
        self._offered = offered
        self._lacking = False  # the coordinator lacks it, or only librdkafka can connect
        self._address: Address | None = None

    def applies(self, partitions: Iterable[Partition], ids: Incarnation) -> bool:
        """Whether these can be written with topic ids, as far as is known yet."""
        return self._offered() and not self._lacking and all(map(ids.get, partitions))

    def open(self) -> Connection | None:
        """A connection to the coordinator; None: it takes no ids, or only librdkafka can connect.

        Raises `TransientError` or `BrokerError`.
        """
        try:
            settings = socket_settings(self._options)
            address = self._address or find_coordinator(self._options, settings)
            connection = open_connection(address, self._options, settings)
        except HeadersUnsupportedError:
            self._lacking = True
            return None
        except TransientError:
            self._address = None
            raise
        if not self.taken_by(connection):
            connection.close()
            return None
        self._address = address
        return connection

    def taken_by(self, connection: Connection) -> bool:
        """Whether the coordinator takes topic ids; one that does not is not asked again."""
        if connection.offers(OffsetCommitRequest, COMMIT_BY_ID):
            return True
        self._lacking = True
        return False

    def write(
        self, offsets: Mapping[Partition, Stored], ids: Incarnation, since: str = "since the survey"
    ) -> dict[Partition, str | None] | None:
        """Write offsets in one request: by partition, why it was refused, or None.

        As a whole None: nothing was sent, since ids are not known or not taken. Raises like `send`.
        """
        if not self.applies(offsets, ids) or (connection := self.open()) is None:
            return None
        with closing(connection):
            return self.send(connection, offsets, ids, since)

    def send(
        self,
        connection: Connection,
        offsets: Mapping[Partition, Stored],
        ids: Incarnation,
        since: str = "since the survey",
        *,
        patient: bool = False,
    ) -> dict[Partition, str | None]:
        """See `write`; `patient`: as in `Incarnations.faults`.

        Raises `TransientError` if it may succeed when tried again: then any part may be written.
        """
        try:
            answer = connection.call(
                commit_request(self._options.group_id, offsets, COMMIT_BY_ID, ids),
                OffsetCommitResponse,
                COMMIT_BY_ID,
                least_s=ANSWERED_S,
            )
            codes = commit_codes(answer, offsets, COMMIT_BY_ID, ids)
            for partition, code in codes.items():
                error = KafkaError(code)
                if code and code != KafkaError.UNKNOWN_TOPIC_ID and is_transient(error):
                    raise translate(error, _DOING, self._options, partition)
        except TransientError:
            self._address = None  # the coordinator may have moved
            raise
        unknown = [p for p, code in codes.items() if code == KafkaError.UNKNOWN_TOPIC_ID]
        refused = {
            p: partition_error(KafkaError(code), self._options) if code else None
            for p, code in codes.items()
        }
        return {**refused, **self._unknown(unknown, ids, since, patient=patient)}

    def _unknown(
        self, partitions: Iterable[Partition], ids: Incarnation, since: str, *, patient: bool
    ) -> Mapping[Partition, str | None]:
        """What became of topics whose ids the coordinator does not know.

        Raises `TransientError` where another broker has the id: this one has just started.
        """
        asked = {partition: ids[partition] for partition in partitions}
        faults = self.logs.faults(asked, since, patient=patient)
        for partition in asked:
            if partition not in faults:
                raise TransientError(
                    f"The group's coordinator does not have the topic id of {partition} yet.", partition
                )
            if isinstance(faults[partition], TransientError):
                raise faults[partition]
        return {partition: str(faults[partition]) for partition in asked}


class LaneCommits:
    """A group's offsets for one lane (`lane_offsets.StoredOffsets`); one thread uses it.

    They are read through librdkafka, and written with topic ids where the coordinator takes them.
    """

    def __init__(self, by_id: IdCommits, stored: GroupOffsets, ids: Incarnation) -> None:
        self._by_id = by_id
        self._stored = stored
        self._ids = ids
        self._connection: Connection | None = None
        self._used_at = 0.0  # by `time.monotonic()`

    def warm_up(self) -> None:
        """See `GroupOffsets.warm_up`."""
        self._stored.warm_up()

    def committed(
        self, partitions: Iterable[Partition], timeout_s: float | None = None
    ) -> OffsetFigures:
        """See `GroupOffsets.committed`."""
        return self._stored.committed(partitions, timeout_s)

    def commit(self, offsets: Mapping[Partition, int]) -> Mapping[Partition, str | None]:
        """Write next offsets, all in one request; see `GroupOffsets.commit`, and `IdCommits.send`."""
        if not offsets:
            return {}
        if not self._by_id.applies(offsets, self._ids):
            return self._stored.commit(offsets)
        if time.monotonic() - self._used_at > IDLE_S:
            self._disconnect()
        connection = self._connection = self._connection or self._by_id.open()
        if connection is None:
            return self._stored.commit(offsets)
        try:
            wanted = {partition: Stored(offset) for partition, offset in offsets.items()}
            outcomes = self._by_id.send(connection, wanted, self._ids, patient=True)
        except BrokerError:
            self._disconnect()
            raise
        self._used_at = time.monotonic()
        return outcomes

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Close the connection and what `GroupOffsets` opened; idempotent."""
        self._disconnect()
        self._stored.close()


def _topic_field(partition: Partition, version: int, ids: Incarnation) -> dict[str, Any]:
    """How a version of OffsetCommit names the topic of a partition."""
    if version >= COMMIT_BY_ID:
        return {"topic_id": topic_id(ids[partition] or "")}
    return {"name": partition.topic}


def commit_request(
    group: str, offsets: Mapping[Partition, Stored], version: int, ids: Incarnation
) -> Any:
    """OffsetCommit from outside the group: no member, no generation. `ids`: used by versions that need them."""
    topic_of = OffsetCommitRequest.OffsetCommitRequestTopic
    topics: dict[str, Any] = {}
    for partition, (offset, metadata, epoch) in offsets.items():
        topic = topics.setdefault(
            partition.topic,
            topic_of(version=version, partitions=[], **_topic_field(partition, version, ids)),
        )
        topic.partitions.append(
            topic_of.OffsetCommitRequestPartition(
                version=version,
                partition_index=partition.number,
                committed_offset=offset,
                committed_leader_epoch=-1 if epoch is None else epoch,
                committed_metadata=metadata,
            )
        )
    return OffsetCommitRequest(
        version=version,
        group_id=group,
        generation_id_or_member_epoch=-1,
        member_id="",
        group_instance_id=None,
        retention_time_ms=-1,
        topics=list(topics.values()),
    )


def commit_codes(
    answer: Any, offsets: Iterable[Partition], version: int, ids: Incarnation
) -> dict[Partition, int]:
    """Kafka's error code (0: none) of each partition; raises where the answer lacks one."""
    by_id = version >= COMMIT_BY_ID
    found = {
        (topic.topic_id if by_id else topic.name, part.partition_index): part.error_code
        for topic in answer.topics
        for part in topic.partitions
    }
    codes: dict[Partition, int] = {}
    for partition in offsets:
        (key,) = _topic_field(partition, version, ids).values()
        code = found.get((key, partition.number))
        if code is None:  # it is not known to be written
            raise not_an_offset(partition, None, "committed offset")
        codes[partition] = code
    return codes
