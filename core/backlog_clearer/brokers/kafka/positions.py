"""The committed offsets of one group, read and written without being a member."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from backlog_clearer.brokers.kafka.errors import DENIED, is_transient, kafka_error, reason, translate
from backlog_clearer.brokers.kafka.figures import (
    NOTHING_STORED,
    OffsetFigures,
    Stored,
    checked,
    not_an_offset,
)
from backlog_clearer.brokers.kafka.librdkafka import REQUEST_TIMEOUT_S, Complaints, open_consumer
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Partition

_MEMBERS = frozenset(
    {
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.GROUP_SUBSCRIBED_TO_TOPIC,
        KafkaError.STALE_MEMBER_EPOCH,
    }
)
"""The coordinator's answers to a commit from outside while the group has members."""


AT_A_TIME = 1000  # partitions in a request: librdkafka's time for one grows with their square


def partition_error(
    error: KafkaError, options: KafkaOptions, needs: str = "READ on the topic and the group"
) -> str:
    """Why the position of one partition was not written, for its row; `needs`: the permissions for it."""
    text = reason(error)
    if error.code() in _MEMBERS:
        return (
            f"group {options.group_id} has consumers attached, so that its offsets cannot be written"
            f" from outside: {text}; stop them"
        )
    if error.code() in DENIED:
        return f"{text}; the user needs {needs}"
    return text


def refused_commit(
    offsets: Iterable[Partition], error: KafkaError, options: KafkaOptions
) -> Mapping[Partition, str | None]:
    """Why each partition was refused where a commit as a whole was; raises where that is not about members."""
    if error.code() in _MEMBERS:
        return dict.fromkeys(offsets, partition_error(error, options))
    raise translate(error, "committing offsets", options)


def commit_outcomes(
    offsets: Iterable[Partition],
    answers: Mapping[Partition, KafkaError | None],
    options: KafkaOptions,
) -> Mapping[Partition, str | None]:
    """By partition, why it was refused, or None, of an answer to a commit: pure.

    Raises `TransientError` for an error that may pass, and for a partition that the answer lacks.
    """
    refused: dict[Partition, str | None] = {}
    for partition in offsets:
        if partition not in answers:  # it is not known to be written
            raise not_an_offset(partition, None, "committed offset")
        error = answers[partition]
        if error is not None and is_transient(error):
            raise translate(error, "committing offsets", options, partition)
        refused[partition] = None if error is None else partition_error(error, options)
    return refused


class GroupOffsets:
    """Writes a group's offsets through a consumer that belongs to no group; one thread uses it.

    The consumer is the lane's where it has one; else one is made at the first request.
    """

    def __init__(self, options: KafkaOptions, consumer: Consumer | None = None) -> None:
        self._options = options
        self._consumer = consumer
        self._owned: Consumer | None = None
        self._complaints = Complaints(options)

    def warm_up(self) -> None:
        """Begin to look for the group's coordinator, in librdkafka's thread."""
        self._client()

    def committed(
        self, partitions: Iterable[Partition], timeout_s: float | None = None
    ) -> OffsetFigures:
        """The offsets that the group has committed; raises like `stored`."""
        found, errors = self.stored(partitions, timeout_s)
        return {partition: item.offset for partition, item in found.items()}, errors

    def stored(
        self, partitions: Iterable[Partition], timeout_s: float | None = None
    ) -> tuple[dict[Partition, Stored], dict[Partition, BrokerError]]:
        """What the group has committed, and the error of each partition that could not be asked.

        Asked as a consumer asks, not as an admin: librdkafka's admin requests to a coordinator end
        the process if its connection breaks meanwhile (confluentinc/librdkafka#5397), and this is
        asked while a broker restarts. `timeout_s`: None for `REQUEST_TIMEOUT_S`. Raises
        `TransientError` or `BrokerError` if the request failed.
        """
        asked = list(partitions)
        wanted = [TopicPartition(p.topic, p.number) for p in asked]
        if not wanted:
            return {}, {}
        doing = f"fetching the offsets of group {self._options.group_id}"
        until = time.monotonic() + (timeout_s or REQUEST_TIMEOUT_S)
        answers: list[TopicPartition] = []
        try:
            for at in range(0, len(wanted), AT_A_TIME):
                left = max(0.1, until - time.monotonic())
                answers += self._client().committed(wanted[at : at + AT_A_TIME], timeout=left)
        except KafkaException as failure:
            raise translate(failure, doing, self._options) from None
        failures: dict[Partition, BrokerError] = {}
        stored: dict[Partition, Stored] = {}
        missing = set(asked)
        for answer in answers:
            partition = Partition(answer.topic, answer.partition)
            missing.discard(partition)
            if answer.error is not None:
                kind = TransientError if is_transient(answer.error) else BrokerError
                failures[partition] = kind(partition_error(answer.error, self._options), partition)
            elif answer.offset != NOTHING_STORED:
                stored[partition] = Stored(answer.offset, answer.metadata or "", answer.leader_epoch)
        failures.update({p: not_an_offset(p, None, "committed offset") for p in missing})
        _, errors = checked({p: item.offset for p, item in stored.items()}, "committed offset")
        failures = {**errors, **failures}
        return {p: item for p, item in stored.items() if p not in failures}, failures

    def commit(self, offsets: Mapping[Partition, int]) -> Mapping[Partition, str | None]:
        """Write next offsets, all in one request; by partition, why it was refused, or None.

        Raises `TransientError` if it may succeed when tried again: then any part may be written.
        """
        if not offsets:
            return {}
        wanted = [TopicPartition(p.topic, p.number, offset) for p, offset in offsets.items()]
        try:
            answers = self._client().commit(offsets=wanted, asynchronous=False) or []
        except KafkaException as failure:
            return refused_commit(offsets, kafka_error(failure), self._options)
        given = {Partition(answer.topic, answer.partition): answer.error for answer in answers}
        return commit_outcomes(offsets, given, self._options)

    def _client(self) -> Consumer:
        if self._consumer is None:
            self._owned = self._consumer = open_consumer(self._options, self._complaints)
        return self._consumer

    def close(self) -> None:
        """Close the consumer made here; idempotent."""
        owned, self._owned = self._owned, None
        if owned is not None:
            owned.close()
            self._consumer = None
